"""What cannot be done is refused: one message that says what is wrong, exit code 2, nothing half-written behind."""

import dataclasses
import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.output import folder as output_folder

# Of every setting the values that no run can have.
BAD = {
    "source.path": ["", "[]", '[""]', "nowhere.jsonl", "nothing-*.jsonl", "tests", "nosuch://host/rows.jsonl"],
    "source.split": ["", "train", "train[:5%]"],
    "source.name": ["", "default"],
    "source.revision": ["", "main"],
    "source.format": ["", "csv", "module", ":function", "nowhere:function", "json:nowhere"],
    "source.fields": ["prompt", '{"question": "prompt"}', '{"prompt": ""}', '{"prompt": 3}', '{"prompt": "nowhere"}'],
    "source.roles": ["assistant", '{"tutor": "teacher"}', '{"tutor": "assistant"}'],
    "source.message_keys": ["role", '{"who": "role"}', '{"role": "who"}'],
    "source.ranked_pairs": ["", "some", "all"],
    "source.margin": ["-1", "nan", "inf", "much"],
    "source.vote_values": ["1", '{"0": "third"}', '{"0": "first"}'],
    "tokenizer": ["", "nowhere", "tests"],
    "tokenizer_revision": ["main"],
    "tokenizer_engine": ["", "fast", "null"],
    "chat_template": ["", "nowhere.jinja", "{{ messages }}"],
    "chat_template_kwargs": ["1", "[1]", '{"enable_thinking": true}'],
    "chat": ["maybe", ""],
    "chat_date": ["", "today", "2026-13-01", "2026-01-31"],
    "require_rendered": ["maybe", "true"],
    "output": ["", "/proc/out"],
    "add_bos": ["maybe", ""],
    "answer_loss": ["some", ""],
    "max_length": ["0", "1", "-5", "1e3", "many", "", "null"],
    "max_prompt_length": ["0", "-1", "2.5"],
    "max_completion_length": ["0", "-1", "2.5"],
    "truncation_side": ["left", ""],
    "overlong": ["keep", ""],
    "compat": ["hf", ""],
    "packing": ["maybe", "2", ""],
    "row_length": ["0", "63", "-1", "x"],
    "eval_share": ["-0.1", "1.1", "nan", "inf", "x"],
    "shuffle": ["false", "maybe"],
    "seed": ["-1", str(1 << 64), "0.5", "x"],
    "dedup": ["fuzzy", ""],
    "num_shards": ["0", "-1", "1.5"],
    "max_drop_share": ["-0.1", "1.1", "nan", "x"],
    "dataset_num_proc": ["0", "-1", "1.5", "x"],
    "overwrite": ["maybe"],
    "beam_options": ["3", '{"no_such_option": 1}', '{"runner": "NoSuchRunner"}', '{"direct_num_workers": "x"}'],
}


@pytest.fixture
def settings(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> list[str]:
    path = write_rows("rows.jsonl", [*triples(30), b"broken"])
    lengths = ["--max_length=64", "--max_prompt_length=32"]
    return [f"--source.path={path}", f"--tokenizer={tokenizer_folder}", f"--output={tmp_path / 'out'}", *lengths]


def test_the_table_has_every_setting():
    names = {field.name for field in dataclasses.fields(PreprocessConfig)} - {"source"}
    assert set(BAD) == names | {f"source.{field.name}" for field in dataclasses.fields(SourceConfig)}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_by_the_name_of_its_setting(
    command: Callable, settings: list[str], tmp_path: Path, name: str
):
    for value in BAD[name]:
        code, _, err = command("run", *settings, f"--{name}={value}")
        assert code == 2, (value, err)
        assert err.startswith("refused: "), value
        assert err.count("\n") == 1, (value, err)
        assert f"--{name}" in err or value in err or (name == "beam_options" and "Beam" in err), (value, err)
        assert not (tmp_path / "out").exists(), value


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b""),
        ("rows.jsonl", b"\n \n"),
        ("rows.jsonl", b"\xef\xbb\xbf"),
        ("rows.json", b""),
        ("rows.json", b"[]"),
        ("rows.csv", b""),
        ("rows.csv", b"prompt,chosen,rejected\n"),
        ("rows.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_source_without_rows_is_refused(
    command: Callable, settings: list[str], tmp_path: Path, name: str, content: bytes
):
    (tmp_path / name).write_bytes(content)
    code, _, err = command("run", *settings, f"--source.path={tmp_path / name}")
    assert (code, err) == (2, f"refused: --source.path={tmp_path / name}: the input has no rows\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["run", "plan", "explain"])
def test_messages_need_a_chat_template(
    command: Callable, settings: list[str], write_rows: Callable, tmp_path: Path, verb: str
):
    turns = [{"role": "user", "content": "Why?"}]
    row = {"prompt": turns, **{side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}}
    path = write_rows("chat.jsonl", [row])
    more = ["--row=0"] if verb == "explain" else []
    code, _, err = command(verb, *settings, f"--source.path={path}", *more)
    assert code == 2
    assert "chat template" in err and "--chat_template" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# What a run publishes, in this order; its shards' data is written by a library: tests/pipeline/output/test_folder.py.
PUBLISHED = ["unfinished.json", "tokenizer/tokenizer.json", "provenance/", "rejects/", "manifest.json", "run.json"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_disk_that_is_full_at_any_file_is_one_refusal_and_leaves_nothing_half_written(
    command: Callable, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    sync = os.fsync

    def fill(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}").replace("/.oddsmill-", "/")
        folder, _, file = path.removeprefix(f"{tmp_path}/out/").rpartition("/")
        if f"{folder}/{file.partition('-')[2]}".strip("/").startswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(output_folder.os, "fsync", fill)
    code, _, err = command("run", *settings)
    assert code == 2, err
    assert f"{tmp_path}/out/{name}" in err
    assert "No space left on device); free some space, or give another --output, and run again\n" in err
    assert err.count("\n") == 1
    left = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    kept = {"unfinished.json", "rejects/00000-rows.jsonl.jsonl"}  # whole, and they say why rows were dropped
    assert left == (kept if PUBLISHED.index(name) > PUBLISHED.index("rejects/") else set())
    monkeypatch.setattr(output_folder.os, "fsync", sync)
    assert command("run", *settings)[0] == 0
    assert command("verify", tmp_path / "out")[0] == 0


def test_an_output_that_is_a_file_is_refused(command: Callable, settings: list[str], tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    code, _, err = command("run", *settings)
    assert (code, err) == (2, f"refused: --output={tmp_path}/out: cannot write there (File exists)\n")
    assert (tmp_path / "out").read_text() == "mine"


def test_files_of_this_machine_are_refused_for_dataflow_before_anything_else(command: Callable, settings: list[str]):
    code, _, err = command("run", *settings, "--", "--runner=dataflow")
    assert code == 2
    assert err.endswith("out is on this machine, where no worker sees it; copy it to gs://\n")
    option = json.dumps({"runner": "DataflowRunner"})
    assert command("run", *settings, f"--beam_options={option}")[1:] == ("", err)
