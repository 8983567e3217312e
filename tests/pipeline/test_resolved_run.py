import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.output.folder import load_manifest
from oddsmill.pipeline.resolved_run import default_num_shards, differences, flat, resolve_run
from oddsmill.schemas.errors import Refused


@pytest.fixture
def config(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> Callable:
    path = write_rows("rows.jsonl", triples(20))

    def make(**changes: Any) -> PreprocessConfig:
        settings = {"tokenizer": str(tokenizer_folder), "output": str(tmp_path / "out"), "max_length": 64} | changes
        return PreprocessConfig(source=SourceConfig(path=str(path)), **settings)

    return make


def test_what_was_left_open_is_settled(config: Callable):
    resolved = resolve_run(config())
    assert resolved.sources[0].format == resolved.settings["source"]["format"] == "triple"
    assert resolved.settings["row_length"] == 128
    assert resolved.settings["max_prompt_length"] == 32
    assert resolve_run(config(compat="trl")).settings["max_prompt_length"] is None
    assert resolved.num_shards == resolved.settings["num_shards"] == {"train": 1, "eval": 1}
    assert [Path(path).name for path in resolved.paths] == ["rows.jsonl"]


def test_the_manifest_says_nothing_of_this_machine(config: Callable, tmp_path: Path):
    assert str(tmp_path) not in str(resolve_run(config()).settings)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_shards": 10, "eval_share": 0.25}, {"train": 10, "eval": 3}),
        ({"eval_share": 0.0}, {"train": 1}),
        ({"eval_share": 1.0}, {"eval": 1}),
        ({"shuffle": False, "eval_share": 0.0}, {"train": 1}),
    ],
)
def test_the_splits_have_so_many_shards(config: Callable, changes: dict[str, Any], expected: dict[str, int]):
    assert resolve_run(config(**changes)).num_shards == expected


@pytest.mark.parametrize(
    ("megabytes", "shards"), [(0, 1), (16, 1), (17, 2), (250, 16), (257, 16), (1024, 16), (1025, 17), (6400, 100)]
)
def test_small_inputs_have_shards_for_many_cores_and_large_ones_large_shards(megabytes, shards):
    assert default_num_shards(megabytes << 20) == shards


def test_an_output_that_holds_the_input_is_refused(config: Callable, tmp_path: Path):
    with pytest.raises(Refused, match="is read, and lies in it; give another folder"):
        resolve_run(config(output=str(tmp_path)))


def test_every_difference_to_a_dataset_is_named(config: Callable, run: Callable, tmp_path: Path):
    run("out", tmp_path / "rows.jsonl")
    manifest = load_manifest(str(tmp_path / "out"))
    inputs = [{"digest": file.digest} for file in resolve_run(config()).inputs]
    assert differences(resolve_run(config()), manifest, inputs) == []
    assert differences(resolve_run(config(seed=5, dedup="exact")), manifest, inputs) == [
        "dedup: none -> exact",
        "seed: 0 -> 5",
    ]
    assert differences(resolve_run(config()), manifest, [{"digest": "another"}]) == [
        "input: other files, or other contents (1 -> 1 files)"
    ]
    older = replace(manifest, tool_version="0.0.1")
    (line,) = differences(resolve_run(config()), older, inputs)
    assert line.startswith("version of oddsmill: 0.0.1 -> ")


def test_nested_settings_have_dotted_names():
    assert flat({"a": 1, "b": {"c": {"d": 2}, "e": [3]}}) == {"a": 1, "b.c.d": 2, "b.e": [3]}
    assert flat({"a": [{"b": 1}, {"b": {"c": 2}}], "d": []}) == {"a[0].b": 1, "a[1].b.c": 2, "d": []}


def test_a_margin_of_scores_that_trl_does_not_read_is_refused(config: Callable):
    source = replace(config().source, margin=0.5)
    assert resolve_run(replace(config(), source=source)).settings["source"]["margin"] == 0.5
    trl = replace(config(compat="trl"), source=source)
    with pytest.raises(Refused, match=r"--source.margin=0.5: has no effect on the format triple with --compat=trl"):
        resolve_run(trl)


TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"


def test_texts_beside_a_chat_template_that_is_not_used_are_named(
    config: Callable, make_tokenizer: Callable, tmp_path: Path
):
    folder = str(make_tokenizer(tmp_path / "chat", chat_template=TEMPLATE))
    (note,) = resolve_run(config(tokenizer=folder)).notes
    assert note.startswith("the rows are texts, and the tokenizer has a chat template that is not used")
    assert "--chat=true" in note
    rows = tmp_path / "dialogues.jsonl"
    sides = {"chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]}
    rows.write_text(json.dumps({"prompt": [{"role": "user", "content": "p"}], "system": "s"} | sides))
    mixed = SourceConfig(path=[config().source.path, str(rows)])
    system, note = resolve_run(replace(config(tokenizer=folder), source=mixed)).notes
    assert note.startswith("some rows are texts, and the tokenizer has")
    assert system.startswith("before the prompt stand, as turns or paragraphs: system (1 rows)")
    assert resolve_run(config(tokenizer=folder, chat=True)).notes == []
    assert resolve_run(config(tokenizer=folder, compat="trl")).notes == []
    assert resolve_run(config()).notes == []
    named = SourceConfig(path=config().source.path, fields={"system": "sytem"})
    assert resolve_run(replace(config(), source=named)).notes == [
        "source.fields names 'sytem', which no row looked at has"
    ]
    with pytest.raises(Refused, match="the rows are texts, not messages; --chat=true makes messages of them"):
        resolve_run(config(tokenizer=folder, chat_template_kwargs={"a": 1}))
    with pytest.raises(Refused, match="the tokenizer has no chat template"):
        resolve_run(config(chat=True))


def test_columns_that_stand_before_the_prompt_are_named(
    config: Callable, write_rows: Callable, triples: Callable, make_tokenizer: Callable, tmp_path: Path
):
    rows = [row | {"system": "s" if n % 2 else "", "history": [["Hi", "Hello."]]} for n, row in enumerate(triples(10))]
    source = SourceConfig(path=str(write_rows("system.jsonl", rows)))
    (note,) = resolve_run(replace(config(), source=source)).notes
    assert note == "before the prompt stand, as paragraphs: history (10 rows) and system (5 rows), of 10 rows looked at"
    folder = str(make_tokenizer(tmp_path / "chat", chat_template=TEMPLATE))
    (note,) = resolve_run(replace(config(tokenizer=folder, chat=True), source=source)).notes
    assert note.startswith("before the prompt stand, as turns: history")
