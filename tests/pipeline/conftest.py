"""Fixtures of the pipeline's tests: runs in this process, and what a run left on disk."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess, progress
from oddsmill.pipeline.__main__ import main, run_verb
from oddsmill.schemas.console import log


@dataclasses.dataclass
class Result:
    """A finished run."""

    folder: Path
    lines: list[str]

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of all that must be reproducible: the manifest and the shards."""
        files = [self.folder / "manifest.json", *self.folder.glob("*.arrayrecord")]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    @property
    def names(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    @property
    def rejects(self) -> list[dict[str, Any]]:
        files = sorted((self.folder / "rejects").glob("*"))
        return [json.loads(line) for file in files for line in file.read_text().split("\n") if line]

    def pairs(self, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        """What `inspect --json` prints."""
        capsys.readouterr()
        run_verb(["inspect", str(self.folder), "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """Yields the list to which the messages of the body are added."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.fixture
def run(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., Result]:
    """Preprocesses: `run("out", path, max_length=64, beam=["--direct_num_workers=2"])`."""

    def call(
        output: str, *paths: Path, beam: tuple[str, ...] = (), source: dict | list | None = None, **changes: Any
    ) -> Result:
        settings = {"tokenizer": str(tokenizer_folder), "output": str(tmp_path / output), "max_length": 64} | changes
        sources = source if isinstance(source, list) else [{"path": [str(path) for path in paths], **(source or {})}]
        made = [SourceConfig(**each) for each in sources]
        config = PreprocessConfig(source=made if isinstance(source, list) else made[0], **settings)
        with messages() as lines:
            preprocess(config, beam_arguments=beam)
        return Result(tmp_path / output, lines)

    return call


@pytest.fixture(autouse=True)
def without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what a command prints from depending on how fast this machine is: its line comes after three seconds."""
    monkeypatch.setattr(progress, "shown", functools.partial(progress.shown, quiet_s=3600.0))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
