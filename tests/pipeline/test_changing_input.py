"""Input that changes in the middle of a run: the run fails, names the file, and leaves nothing that looks done."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.pipeline.output import folder
from oddsmill.schemas.errors import Refused, RunFailed
from tests.pipeline.test_two_runs import in_the_middle


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _another_row(path: Path) -> None:
    about = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Answer 3", b"Answer 4"))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("before", "act", "problem"),
    [
        ("MakePairs", _cut, r"rows\.jsonl changed while it was read: it was [\d,]+ bytes"),
        ("WriteManifest", _another_row, r"rows\.jsonl changed while it was read: its content is another one"),
        ("WriteManifest", Path.unlink, r"rows\.jsonl changed while it was read: it is gone"),
        ("WriteShard", lambda path: (path.parent / "s.jsonl").touch(), r"s\.jsonl appeared while the input was read"),
    ],
)
def test_the_run_fails_names_the_file_and_leaves_nothing(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    before: str, act: Callable[[Path], object], problem: str,
):  # fmt: skip
    path = write_rows("rows.jsonl", triples(40))
    in_the_middle(monkeypatch, lambda: act(path), before=before)
    with pytest.raises(RunFailed, match=problem):
        run("out", source={"path": str(tmp_path / "*.jsonl")})
    assert not list((tmp_path / "out").iterdir())


def test_a_compressed_file_that_is_cut_while_it_is_read_has_changed_and_is_not_damaged(
    run: Callable, triples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in triples(3000))))
    from oddsmill.pipeline import transforms

    read = transforms.read_batches

    def cut(part):
        _cut(path)
        yield from read(part)

    monkeypatch.setattr(transforms, "read_batches", cut)
    with pytest.raises(RunFailed, match=r"rows\.jsonl\.gz changed while it was read: it was"):
        run("out", path)


def _reads(path: Path, meanwhile: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each first reading of a part find the file as `meanwhile` makes it, and then as it was."""
    from oddsmill.pipeline import transforms

    read, content = transforms.read_batches, path.read_bytes()

    def read_then_restore(part):
        meanwhile(path)
        rows = list(read(part))
        path.write_bytes(content)
        monkeypatch.setattr(transforms, "read_batches", read)
        yield from rows

    monkeypatch.setattr(transforms, "read_batches", read_then_restore)


def test_a_file_that_is_touched_is_read_and_one_that_was_cut_for_a_moment_is_not(
    run: Callable, write_rows: Callable, triples: Callable, monkeypatch: pytest.MonkeyPatch
):
    path = write_rows("rows.jsonl", triples(40))
    _reads(path, Path.touch, monkeypatch)
    assert run("touched", path).manifest["ledger"]["rows_in"] == 40
    _reads(path, _cut, monkeypatch)
    with pytest.raises(
        RunFailed, match=r"rows\.jsonl changed while it was read: its content was another one meanwhile"
    ):
        run("cut", path)


def test_what_the_run_itself_writes_under_a_glob_has_not_appeared(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path
):
    write_rows("rows.jsonl", [*triples(9), {"prompt": 1, "chosen": "a", "rejected": "b"}])
    assert list(run("out", tmp_path / "**" / "*.jsonl").folder.glob("rejects/*.jsonl"))


def test_a_tokenizer_that_changes_while_the_run_begins_is_found(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path, make_tokenizer: Callable, monkeypatch
):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    begin = folder.begin

    def late(*arguments):
        make_tokenizer(tmp_path / "tokenizer", pad_token="</s>")
        begin(*arguments)

    monkeypatch.setattr(folder, "begin", late)
    with pytest.raises(RunFailed, match="tokenizer: the tokenizer changed while the run began"):
        run("out", write_rows("rows.jsonl", triples(9)), tokenizer=str(tokenizer))
    assert not list((tmp_path / "out").iterdir())


def test_what_is_found_of_the_input_stays_out_of_the_record(run: Callable, write_rows: Callable, triples: Callable):
    result = run("out", write_rows("rows.jsonl", triples(9)))
    record = json.loads((result.folder / "run.json").read_text())
    assert "states" not in record["inputs"][0]
    with pytest.raises(Refused, match="other files, or other contents"):
        run("out", write_rows("rows.jsonl", triples(10)))
