"""`explain --dump`: from the trainer's dump of a step to the rows it came from."""

import json
import shutil
from pathlib import Path

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from tests.pipeline.conftest import Result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A folder with a dataset of two sources in `out`, and their rows beside it; tests alter copies of `out` alone."""
    folder = tmp_path_factory.mktemp("made")
    rows = [{"prompt": f"why {n}", "chosen": f" because {n}", "rejected": " no"} for n in range(9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "other.jsonl").write_text(json.dumps({"question": "q", "chosen": "a", "rejected": "b"}))
    sources = [
        SourceConfig(path=str(folder / "rows.jsonl")),
        SourceConfig(path=str(folder / "other.jsonl"), fields={"prompt": "question"}),
    ]
    settings = {"tokenizer": str(tokenizer_folder), "output": str(folder / "out"), "max_length": 64, "eval_share": 0}
    preprocess(PreprocessConfig(source=sources, num_shards=2, **settings))
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(made / "out", tmp_path / "out")
    result = Result(tmp_path / "out", [])
    pairs = result.pairs(capsys)
    return made / "rows.jsonl", result, pairs


def alter_record(folder: Path, **changes) -> dict:
    """Changes the settings that run.json keeps; returns those that it had."""
    record = json.loads((folder / "run.json").read_text())
    before = record["settings"]
    (folder / "run.json").write_text(json.dumps(record | {"settings": before | changes}))
    return before


def dump_of(folder, rows, data) -> str:
    path = folder / "nonfinite-step-7.json"
    path.write_text(json.dumps({"step": 7, "loss": "nan", "grad_norm": "nan", "data": str(data), "rows": rows}))
    return f"--dump={path}"


def test_the_pairs_of_the_rows_to_blame_are_explained_and_no_others(dataset, tmp_path, command):
    path, result, pairs = dataset
    rows = [
        {"pairs": [pairs[0]["id"]], "loss": 1.0, "grad_norm": 1.0, "finite": True},
        {"pairs": [pairs[1]["id"], pairs[2]["id"]], "loss": "nan", "grad_norm": "nan", "finite": False},
    ]
    code, out, err = command("explain", dump_of(tmp_path, rows, result.folder), "--source.recorded=true")
    assert (code, err) == (0, "")
    assert out.startswith("step 7: loss nan, gradient norm nan\n1 of its 2 rows are not finite alone")
    for pair in pairs[1:3]:
        row = pair["source"].rpartition(":")[2]
        assert f"pair {pair['id']}" in out
        assert f"\nrow {row} of {path}\n" in out  # the source row, with every decision
        assert f"\nid         {pair['id']}\n" in out
    assert pairs[0]["id"] not in out


def test_without_the_source_the_tokens_are_shown(dataset, tmp_path, command):
    _, result, pairs = dataset
    alter_record(result.folder, source={"path": "gone.jsonl"})
    moved = tmp_path / "moved"
    result.folder.rename(moved)
    arguments = ("explain", dump_of(tmp_path, [{"pairs": [pairs[0]["id"]]}], result.folder))
    code, _, err = command(*arguments)
    assert code == 2 and str(result.folder) in err
    code, out, err = command(*arguments, f"--data={moved}", "--source.recorded")
    assert (code, err) == (0, "")
    assert f"pair {pairs[0]['id']}  {pairs[0]['source']}" in out and "the source is not read: " in out
    assert f"chosen {len(pairs[0]['chosen_ids'])}" in out


def test_what_is_no_dump_or_not_of_this_dataset_is_refused(dataset, tmp_path, command):
    _, result, _ = dataset
    assert "No such file" in command("explain", "--dump=nowhere.json")[2]
    (tmp_path / "other.json").write_text("{}")
    assert "not a dump of a training step" in command("explain", f"--dump={tmp_path / 'other.json'}")[2]
    code, _, err = command("explain", dump_of(tmp_path, [{"pairs": ["00000000000000aa"]}], result.folder))
    assert code == 2 and "has no pair 00000000000000aa" in err


@pytest.mark.parametrize(
    ("altered", "problem"),
    [
        ({"step": None}, "step=null: must be a whole number of at least 0"),
        ({"step": -1}, "step=-1: must be"),
        ({"loss": "\x1b[2J"}, 'loss="\\u001b[2J": must be a number or "nan"'),
        ({"loss": [1]}, "loss=[1]: must be"),
        ({"grad_norm": float("nan")}, "it holds NaN"),
        ({"data": 3}, "data=3: must be a text"),
        ({"rows": {}}, "rows={}: must be a list"),
        ({"rows": []}, "rows: it has none"),
        ({"rows": ["x"]}, 'rows[0]="x": must be an object'),
        ({"rows": [{"pairs": None}]}, "rows[0].pairs=null: must be a list"),
        ({"rows": [{"pairs": ["0x1"]}]}, 'rows[0].pairs[0]="0x1": must be hexadecimal digits'),
        ({"rows": [{"pairs": ["f" * 17]}]}, "16 at most"),
        ({"rows": [{"pairs": ["1"], "finite": 0}]}, "rows[0].finite=0: must be true or false"),
        ({"rows": json.loads("[" * 500 + "]" * 500)}, "must be an object"),
        ({"more": 1}, "more is no field that is known here"),
    ],
)
def test_a_dump_of_other_values_is_refused_by_the_field(tmp_path, command, altered, problem):
    dump = {"step": 7, "loss": "nan", "grad_norm": 1.5, "data": "x", "rows": [{"pairs": ["1"], "finite": False}]}
    (tmp_path / "dump.json").write_text(json.dumps(dump | altered))
    code, out, err = command("explain", f"--dump={tmp_path / 'dump.json'}")
    assert (code, out) == (2, "") and "not a dump of a training step" in err and problem in err, err


def test_files_that_a_dataset_names_are_opened_only_where_that_is_asked_for(dataset, tmp_path, command):
    path, result, pairs = dataset
    (pair,) = [pair for pair in pairs if pair["source"].startswith(f"{path}:")][:1]
    arguments = ("explain", dump_of(tmp_path, [{"pairs": [pair["id"]]}], result.folder))
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"prompt": "my password", "chosen": "a", "rejected": "b"}) + "\n")
    other = alter_record(result.folder)["source"][1]
    alter_record(result.folder, source=[{"path": str(secret)}, other])
    code, out, err = command(*arguments)
    assert (code, err) == (0, "") and "password" not in out
    assert f"run.json names {secret}, " in out and "--source.recorded=true opens that, --source.path=FILES" in out
    code, out, err = command(*arguments, f"--source.path={json.dumps([str(path), other['path']])}")
    assert (code, err) == (0, "") and f"\nrow {pair['source'].rpartition(':')[2]} of {path}\n" in out
    assert "--source.path has 1 paths, and the dataset 2 sources" in command(*arguments, f"--source.path={path}")[1]


def test_code_that_a_dataset_names_is_not_imported(dataset, tmp_path, command, monkeypatch):
    _, result, pairs = dataset
    (tmp_path / "of_a_stranger.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "of_mine.py").write_text(
        "def read(row):\n    return row | {'prompt': row.get('prompt') or row['question']}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sources = [each | {"format": "of_a_stranger:read", "fields": {}} for each in alter_record(result.folder)["source"]]
    alter_record(result.folder, source=sources)
    arguments = ("explain", dump_of(tmp_path, [{"pairs": [pairs[0]["id"]]}], result.folder))
    for more in ((), ("--source.recorded",)):
        code, out, err = command(*arguments, *more)
        assert (code, err) == (0, "") and f"pair {pairs[0]['id']}" in out and "the source is not read: " in out
    assert "run.json says that of_a_stranger:read made the pairs; code that a dataset names is not imported" in out
    code, out, err = command(*arguments, "--source.recorded", "--source.format=of_mine:read")
    assert (code, err) == (0, "") and f"\nid         {pairs[0]['id']}\n" in out
    assert command(*arguments, "--source.format=of_mine:read")[0] == 2
    assert "give module:function" in command(*arguments, "--source.recorded", "--source.format=votes")[2]


def test_a_dump_fetches_nothing(dataset, tmp_path, command):
    code, _, err = command("explain", dump_of(tmp_path, [{"pairs": ["1"]}], "gs://bucket/of/a/stranger"))
    assert code == 2 and "names the dataset gs://bucket/of/a/stranger, which no run has read" in err


def test_a_damaged_record_of_the_run_is_said_and_the_tokens_are_shown(dataset, tmp_path, command):
    _, result, pairs = dataset
    arguments = ("explain", dump_of(tmp_path, [{"pairs": [pairs[0]["id"]]}], result.folder), "--source.recorded")
    sound = alter_record(result.folder)
    for damage in (
        {"source": 3},
        {"source": [{"path": 3}, 4]},
        {"source": {"class_path": "os.system"}},
        {"max_length": "x"},
        {"seed": []},
        {"num_shards": {"\x1b[2J": 1}},
    ):
        alter_record(result.folder, **sound | damage)
        code, out, err = command(*arguments)
        assert (code, err) == (0, "") and "the source is not read: " in out and f"pair {pairs[0]['id']}" in out, damage
    (result.folder / "run.json").write_text("{")
    assert command(*arguments)[0] == 0
