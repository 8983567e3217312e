"""An output that cannot be written: one message, and nothing half-written stays behind."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from oddsmill.pipeline.output import folder
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
    with folder.locked_folder(str(tmp_path)) as lock:
        with nullcontext() if is_taken else pytest.raises(Refused, match="holds files that are not ours"):
            folder.begin(str(tmp_path), {}, lock)
        folder.abandon(str(tmp_path), lock)
    assert [path.name for path in tmp_path.iterdir()] == [name]
