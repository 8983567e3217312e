"""Whole runs, in this process."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.engines.fast import FastEngine
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.errors import Refused, RunFailed

GOOD = {"prompt": "Tell me", "chosen": " a story", "rejected": " no"}


def test_every_row_of_a_dirty_file_is_a_pair_or_a_reject(run: Callable, write_rows: Callable, capsys):
    rows = [
        (GOOD, None),
        (b'{"prompt": "x", "chosen"', "unreadable"),
        (b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b"}', "unreadable"),
        (b'{"prompt": "\\udc80", "chosen": "a", "rejected": "b"}', "unreadable"),
        ([1, 2], "wrong_type"),
        (GOOD | {"chosen": 3}, "wrong_type"),
        (GOOD | {"rejected": None}, "wrong_type"),
        ({"prompt": "x", "chosen": "y"}, "missing_field"),
        (GOOD | {"prompt": " "}, "empty_prompt"),
        (GOOD | {"rejected": ""}, "empty_answer"),
        (GOOD | {"chosen": "\n"}, "empty_answer"),
        (GOOD | {"rejected": " a story"}, "identical_answers"),
        (GOOD | {"chosen": " word" * 400_000}, None),
        (b"", None),
        (GOOD | {"prompt": "Tell me more"}, None),
        (GOOD, None),
    ]
    blank = 1
    result = run("out", write_rows("rows.jsonl", [row for row, _ in rows]), max_drop_share=1.0)
    expected = {number: reason for number, (_, reason) in enumerate(rows) if reason}
    assert {reject["row"]: reject["reason"] for reject in result.rejects} == expected
    ledger = result.manifest["ledger"]
    assert ledger == {
        "rows_in": len(rows) - blank,
        "pairs_out": len(rows) - blank - len(expected),
        "drops": dict(Counter(expected.values())),
        "extra_pairs": 0,
    }
    assert len(result.pairs(capsys)) == ledger["pairs_out"]
    assert result.manifest["counts"]["exact_duplicates"] == 1
    for reject in result.rejects:
        row = rows[reject["row"]][0]
        assert reject["raw"] == (row if isinstance(row, bytes) else json.dumps(row).encode()).decode(
            "utf-8", "backslashreplace"
        )
        assert reject["detail"]


def test_bytes_do_not_depend_on_order_files_workers_or_retries(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path
):
    rows = [*triples(300), {"prompt": "x"}, *triples(20)]  # with drops and with exact duplicates
    shuffled = random.Random(1).sample(rows, len(rows))
    whole = write_rows("rows.jsonl", rows)
    pieces = [write_rows(f"{name}.jsonl", shuffled[start::3]) for start, name in enumerate("cab")]
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    settings = {"num_shards": 3, "eval_share": 0.2}
    first = run("first", whole, **settings)
    assert first.manifest["ledger"]["pairs_out"] == 320
    assert len(first.digests) == 5
    threads = ("--direct_num_workers=2",)
    for output, paths, beam in (
        ("again", [whole], ()),
        ("threads", [whole], threads),
        ("pieces", pieces, ()),
        ("pieces_threads", pieces[::-1], threads),
        ("packed", [packed], ()),
        ("repeated", pieces, ("--direct_runner_bundle_repeat=1",)),
    ):
        assert run(output, *paths, beam=beam, **settings).digests == first.digests, output


def test_blocks_on_disk_and_blocks_in_the_shuffle_give_the_same_bytes(
    run: Callable, write_rows: Callable, triples: Callable
):
    path = write_rows("rows.jsonl", triples(30))
    threads = run("threads", path, dedup="exact")  # its blocks wait on disk
    processes = run("processes", path, dedup="exact", beam=("--direct_running_mode=multi_processing",))
    assert processes.digests == threads.digests


def test_parquet_gives_the_ids_of_the_same_rows_in_json(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path
):
    rows = triples(50)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=7)
    shards = [
        {name: digest for name, digest in result.digests.items() if name != "manifest.json"}
        for result in (run("json", write_rows("rows.jsonl", rows)), run("parquet", tmp_path / "rows.parquet"))
    ]
    assert shards[0] == shards[1]


def test_ids_are_those_of_the_texts_and_name_their_row(
    run: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path, capsys
):
    rows, tokenizer = triples(40), load_tokenizer(tokenizer_folder)
    path = write_rows("rows.jsonl", rows)
    for pair in run("out", path, eval_share=0.3, max_length=512).pairs(capsys):
        file, _, number = pair["source"].rpartition(":")
        row = rows[int(number)]
        assert file == str(path)
        assert pair["truncated"] == []
        assert tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"]) == f"<s>{row['prompt']}{row['chosen']}</s>"
        assert tokenizer.decode(pair["prompt_ids"] + pair["rejected_ids"]) == f"<s>{row['prompt']}{row['rejected']}</s>"


def test_without_shuffle_rows_keep_the_order_of_the_source(
    run: Callable, write_rows: Callable, triples: Callable, capsys
):
    rows = triples(60)
    second, first = write_rows("a.jsonl", rows[30:]), write_rows("b.jsonl", rows[:30])
    for packing in (True, False):
        result = run(f"out{packing}", first, second, shuffle=False, eval_share=0.0, packing=packing)
        sources = [pair["source"] for pair in result.pairs(capsys)]
        assert sources == [f"{path}:{row}" for path in (first, second) for row in range(30)]
        rows_written = result.manifest["splits"]["train"]["rows"]
        assert (rows_written == 60) != packing


def test_exact_duplicates_are_kept_and_counted_or_dropped_and_shown(
    run: Callable, write_rows: Callable, triples: Callable
):
    path = write_rows("rows.jsonl", [*triples(20), *triples(5)])
    kept = run("kept", path)
    assert kept.manifest["counts"]["exact_duplicates"] == 5
    assert any("--dedup=exact" in line for line in kept.lines)
    dropped = run("dropped", path, dedup="exact")
    assert dropped.manifest["ledger"] == {"rows_in": 25, "extra_pairs": 0, "pairs_out": 20, "drops": {"duplicate": 5}}
    assert [reject["row"] for reject in dropped.rejects] == [20, 21, 22, 23, 24]
    assert json.loads(dropped.rejects[0]["raw"]) == triples(1)[0]
    assert [reject["detail"] for reject in dropped.rejects] == [
        f"row {row} of {path}, which is kept, has them" for row in range(5)
    ]


def test_shards_without_a_pair_exist_too(run: Callable, write_rows: Callable, triples: Callable, command: Callable):
    result = run("out", write_rows("rows.jsonl", triples(4)), num_shards=9, eval_share=1e-9)
    shards = result.manifest["splits"]["train"]["shards"]
    assert [shard["name"] for shard in shards] == [f"train-{index:05d}-of-00009.arrayrecord" for index in range(9)]
    assert result.manifest["splits"]["eval"]["pairs"] == 0
    assert any("no prompt fell to the eval split" in line for line in result.lines)
    assert command("verify", result.folder)[0] == 0


def test_a_second_run_does_nothing(run: Callable, write_rows: Callable, triples: Callable):
    path = write_rows("rows.jsonl", triples(20))
    first = run("out", path)
    before = {file: file.stat().st_mtime_ns for file in first.folder.rglob("*")}
    assert any("nothing changed" in line for line in run("out", path).lines)
    assert {file: file.stat().st_mtime_ns for file in first.folder.rglob("*")} == before


def test_a_dataset_of_other_settings_input_or_tokenizer_is_not_overwritten(
    run: Callable, write_rows: Callable, triples: Callable, make_tokenizer: Callable, tmp_path: Path
):
    path = write_rows("rows.jsonl", triples(20))
    before = run("out", path).digests
    with pytest.raises(Refused, match=r"another run \(dedup: none -> exact; seed: 0 -> 1\); give another folder"):
        run("out", path, seed=1, dedup="exact")
    same_ids = make_tokenizer(tmp_path / "same", more=1)
    assert any("nothing changed" in line for line in run("out", path, tokenizer=str(same_ids)).lines)
    with pytest.raises(Refused, match=r"tokenizer: another tokenizer_config\.json"):
        run("out", path, tokenizer=str(make_tokenizer(tmp_path / "other", pad_token="</s>")))
    with pytest.raises(Refused, match="input: other files, or other contents"):
        run("out", write_rows("rows.jsonl", triples(21)))
    result = run("out", write_rows("rows.jsonl", triples(20)))
    assert result.digests == before
    assert run("out", path, seed=1, num_shards=2, overwrite=True).digests != before
    assert not (tmp_path / "out" / "train-00000-of-00001.arrayrecord").exists()


def test_a_missing_shard_is_made_again(run: Callable, write_rows: Callable, triples: Callable):
    path = write_rows("rows.jsonl", triples(20))
    first = run("out", path)
    before = first.digests
    (first.folder / "train-00000-of-00001.arrayrecord").unlink()
    assert run("out", path).digests == before


def test_what_an_interrupted_run_left_is_removed(run: Callable, write_rows: Callable, triples: Callable):
    path = write_rows("rows.jsonl", triples(20))
    clean = run("clean", path)
    folder = clean.folder.parent / "crashed"
    (folder / "rejects").mkdir(parents=True)
    for name in ("unfinished.json", "train-00000-of-00007.arrayrecord", ".oddsmill-1-x", "rejects/.oddsmill-2-y"):
        (folder / name).write_text("{")
    (folder / "notes.txt").write_text("mine")
    crashed = run("crashed", path)
    assert crashed.digests == clean.digests
    assert crashed.names == clean.names | {"notes.txt"}


@pytest.mark.parametrize("beam", [(), ("--direct_num_workers=2",)])
def test_too_many_drops_refuse_the_run_and_leave_the_rejects(
    run: Callable, write_rows: Callable, tmp_path: Path, beam: tuple[str, ...]
):
    path = write_rows("rows.jsonl", [GOOD, {"prompt": 1}, {"prompt": 2}])
    with pytest.raises(Refused) as refused:
        run("out", path, source={"format": "triple"}, beam=beam)
    message = str(refused.value)
    assert message.startswith("2 of 3 rows were dropped (wrong_type 2), more than --max_drop_share=0.5 allows; ")
    assert message.endswith("rejects/ holds each row with its reason")
    assert len(list((tmp_path / "out" / "rejects").iterdir())) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("*.arrayrecord"))
    assert run("out", path, source={"format": "triple"}, max_drop_share=0.9).manifest["ledger"]["pairs_out"] == 1


def test_a_run_that_leaves_no_pair_is_refused(run: Callable, write_rows: Callable, tmp_path: Path):
    with pytest.raises(Refused, match=r"no pair is left: all 1 rows were dropped \(wrong_type 1\)"):
        run("out", write_rows("rows.jsonl", [{"prompt": 1}]), source={"format": "triple"}, max_drop_share=1.0)
    with pytest.raises(Refused, match="the input has no rows"):
        run("empty", write_rows("none.jsonl", []), source={"format": "triple"})
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("beam", [(), ("--direct_num_workers=2",)])
def test_an_input_that_breaks_off_refuses_the_run_and_leaves_nothing(
    run: Callable, triples: Callable, tmp_path: Path, beam: tuple[str, ...]
):
    path = tmp_path / "rows.jsonl.gz"
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in triples(3000))
    path.write_bytes(gzip.compress(lines)[:-500])
    with pytest.raises(Refused, match=r"^[^\[]*rows\.jsonl\.gz, after row \d+: the file is damaged \([^)]*\)$"):
        run("out", path, beam=beam)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_is_not_ours_is_left_alone(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"name": "of another program"}')
    with pytest.raises(Refused, match="holds files that are not ours"):
        run("out", write_rows("rows.jsonl", triples(9)), overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_the_output_is_not_read_and_cleared_at_once(run: Callable, write_rows: Callable, triples: Callable):
    result = run("out", write_rows("rows.jsonl", triples(9)))
    with pytest.raises(Refused, match="is read, and lies in it"):
        run("out", write_rows("rows.jsonl", triples(9)), tokenizer=str(result.folder / "tokenizer"), overwrite=True)
    assert (result.folder / "tokenizer" / "tokenizer.json").exists()


def test_the_manifest_says_nothing_of_where_the_run_took_place_and_no_file_a_secret(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path
):
    secrets = ("--s3_secret_access_key=hunter2", "--s3_session_token", "hunter2")
    options = {"s3_access_key_id": "hunter2"}
    rows = write_rows("rows.jsonl", [*triples(9), {"prompt": "a drop"}])
    result = run("out", rows, beam=("--direct_num_workers=2", *secrets), beam_options=options)
    text = (result.folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert "direct_num_workers" not in text
    record = json.loads((result.folder / "run.json").read_text())
    assert record["inputs"][0]["path"] == str(tmp_path / "rows.jsonl")
    shown = ["--direct_num_workers=2", "--s3_secret_access_key=***", "--s3_session_token", "***"]
    assert record["beam_arguments"] == shown
    assert record["settings"]["beam_options"] == {"s3_access_key_id": "***"}
    assert not [path for path in result.folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert "hunter2" not in "\n".join(result.lines)
    assert run("out", rows, beam=("--direct_num_workers=2",)).lines[-1].startswith("nothing changed")


def test_prompts_that_leave_no_room_are_announced(run: Callable, write_rows: Callable, triples: Callable):
    lines = run("out", write_rows("rows.jsonl", triples(9)), max_prompt_length=64).lines
    assert sum("prompts are not cut below max_prompt_length=64" in line for line in lines) == 1


def test_a_shard_that_no_pair_fell_to_exists_and_holds_nothing(run: Callable, write_rows: Callable, triples: Callable):
    result = run("out", write_rows("rows.jsonl", triples(5)), num_shards=12, eval_share=0.0)
    shards = result.manifest["splits"]["train"]["shards"]
    assert [shard["name"] for shard in shards] == [f"train-{index:05d}-of-00012.arrayrecord" for index in range(12)]
    assert sum(shard["records"] == 0 for shard in shards) >= 7
    assert set(result.digests) == {shard["name"] for shard in shards} | {"manifest.json"}


def test_either_engine_makes_the_same_dataset_and_the_manifest_says_which(
    run: Callable, write_rows: Callable, triples: Callable
):
    path = write_rows("rows.jsonl", [*triples(30), {"prompt": "</s> 👍🏽 ", "chosen": " e\u0301\x00", "rejected": " "}])
    fast, slow = (run(f"out-{name}", path, tokenizer_engine=name) for name in ("fastokens", "tokenizers"))
    assert "engine     fastokens" in fast.lines and "engine     tokenizers" in slow.lines
    manifests = [(result.folder / "manifest.json").read_text().splitlines() for result in (fast, slow)]
    own_digests, engines = (lines for lines in zip(*manifests, strict=True) if lines[0] != lines[1])
    assert all(line.startswith('  "manifest_sha256": ') for line in own_digests)
    assert engines == ('  "tokenizer_engine": "fastokens",', '  "tokenizer_engine": "tokenizers",')
    assert {**fast.digests, "manifest.json": ""} == {**slow.digests, "manifest.json": ""}
    again = run("out-fastokens", path, tokenizer_engine="tokenizers")  # no other dataset
    assert again.lines[-1].startswith("nothing changed") and again.digests == fast.digests


def test_an_engine_that_errs_ends_the_run(
    run: Callable, write_rows: Callable, triples: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    class Wrong(FastEngine):
        def encode_flat(self, texts: Sequence[str]) -> FlatIds:
            flat = super().encode_flat(texts)
            if len(texts) > 16:  # the first texts are compared
                flat.ids[-1] = 3
            return flat

    monkeypatch.setattr("oddsmill.schemas.chat.tokenizer.FastEngine", Wrong)
    with pytest.raises(RunFailed, match=r"^fastokens gives other ids than tokenizers for the text "):
        run("out", write_rows("rows.jsonl", triples(60)), dataset_num_proc=1, tokenizer_engine="fastokens")
    assert not (tmp_path / "out" / "manifest.json").exists()
