"""An output that cannot be written or holds what may not be lost: one message, and nothing half-written stays."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from oddsmill.pipeline.output.folder import abandon, begin, is_ours, locked_folder
from oddsmill.schemas.errors import Refused

ROOT = Path(__file__).parents[3]


def test_a_shard_that_does_not_fit_on_the_disk_is_one_refusal_and_leaves_nothing(
    write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path
):
    path, output = write_rows("rows.jsonl", triples(30)), tmp_path / "out"
    # A limit on files fails at the same calls as a full disk, and needs no right to mount one.
    limit = 100_000  # the tokenizer's files fit, a shard (64 KiB blocks) does not
    finished = subprocess.run(
        [sys.executable, "-m", "oddsmill.pipeline", "run", f"--source.path={path}", f"--tokenizer={tokenizer_folder}",
         "--max_length=64", "--max_prompt_length=32", f"--output={output}"],
        cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    assert "-00000-of-00001.arrayrecord: write() failed: File too large; free some space" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not os.listdir(output)


def test_an_output_under_a_file_is_refused(
    write_rows: Callable, triples: Callable, command: Callable, tokenizer_folder: Path
):
    path = write_rows("rows.jsonl", triples(9))
    code, _, message = command(
        "run", f"--source.path={path}", f"--tokenizer={tokenizer_folder}", f"--output={path / 'out'}"
    )
    assert code == 2
    assert message == f"refused: --output={path / 'out'}: cannot write there (Not a directory)\n"


@pytest.mark.parametrize(("name", "is_taken"), [(".gitkeep", True), (".DS_Store", True), ("notes.txt", False)])
def test_a_folder_with_hidden_files_alone_is_an_empty_one_and_keeps_them(tmp_path: Path, name: str, is_taken: bool):
    (tmp_path / name).touch()
    with locked_folder(str(tmp_path)) as lock:
        with nullcontext() if is_taken else pytest.raises(Refused, match="holds files that are not ours"):
            begin(str(tmp_path), {}, lock, False)
        abandon(str(tmp_path), lock)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("manifest", [None, b"", b"\xff", b"[]", b"{", b'{"name": "of another program"}', "half"])
def test_what_is_left_of_a_dataset_is_replaced_only_where_that_is_asked_for(
    left: tuple[Callable, Path, Path], tmp_path: Path, manifest: bytes | str | None
):
    run, rows, dataset = left
    for number, gone in enumerate(("nothing", "run.json", "*.arrayrecord")):
        output = tmp_path / f"out-{number}"
        shutil.copytree(dataset, output)
        for path in output.glob(gone):
            path.unlink()
        if manifest is None:
            (output / "manifest.json").unlink()
        else:
            content = (output / "manifest.json").read_bytes()
            (output / "manifest.json").write_bytes(manifest if isinstance(manifest, bytes) else content[:-99])
        before = sorted(output.rglob("*"))
        with pytest.raises(Refused) as refused:
            run(output.name, rows)
        assert str(refused.value).startswith(f"--output={output} holds a damaged dataset (")
        assert str(refused.value).endswith("; give another folder, or --overwrite=true to replace it")
        assert sorted(output.rglob("*")) == before
        with locked_folder(str(output)) as lock:
            begin(str(output), {}, lock, True)
        assert [path.name for path in output.iterdir()] == ["unfinished.json"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def left(kept: Path, run: Callable, write_rows: Callable, triples: Callable) -> tuple[Callable, Path, Path]:
    """Returns what runs, its rows, and the dataset of them, which is made once."""
    rows = write_rows("rows.jsonl", triples(9))
    if not (kept / "out").exists():
        shutil.copytree(run("made", rows).folder, kept / "out")
    return run, rows, kept / "out"


@pytest.mark.parametrize(
    "names",
    [
        ["manifest.json"],  # of a browser's extension, for instance
        ["manifest.json", "run.json", "tokenizer/tokenizer.json"],
        ["train-00000-of-00002.parquet"],
        ["provenance/mine.txt", "report.html"],
    ],
)
def test_files_of_others_are_not_taken_for_ours(tmp_path: Path, names: list[str]):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"name": "of another program"}')
    assert not is_ours(str(tmp_path))
    with locked_folder(str(tmp_path)) as lock, pytest.raises(Refused, match="holds files that are not ours"):
        begin(str(tmp_path), {}, lock, True)
