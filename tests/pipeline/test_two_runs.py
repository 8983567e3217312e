"""Two runs into one output: one of them has it, and what is there is whole and of that one."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess, transforms
from oddsmill.pipeline.commands.verify import VerifyConfig, verify_dataset
from oddsmill.pipeline.output import folder
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.locks import lock
from oddsmill.schemas.locks.lock import lock_inside
from oddsmill.schemas.locks.places import Owner, place_of
from oddsmill.schemas.stores import files_under


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "out")
        return
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 1.0)
    yield "memory://out"
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def config(write_rows: Callable, triples: Callable, tokenizer_folder: Path, output: str) -> PreprocessConfig:
    path = str(write_rows("rows.jsonl", triples(30)))
    return PreprocessConfig(
        source=SourceConfig(path=path), tokenizer=str(tokenizer_folder), output=output, max_length=64
    )


def in_the_middle(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], *, before: str = "WriteManifest") -> None:
    """Acts once, before the first call of a step of the graph."""
    owner, done = getattr(transforms, before), threading.Event()
    process = owner.process

    def call(*arguments: Any, **options: Any) -> Any:
        if not done.is_set():
            done.set()
            act()
        return process(*arguments, **options)

    monkeypatch.setattr(owner, "process", call)


def test_a_run_into_the_output_of_another_is_refused_and_disturbs_nothing(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch
):
    refusals: list[str] = []

    def start_another() -> None:
        with pytest.raises(Refused) as refused:
            preprocess(config)
        refusals.append(str(refused.value))

    in_the_middle(monkeypatch, start_another)
    manifest = preprocess(config)
    assert len(refusals) == 1
    assert refusals[0].startswith(f"--output={config.output}: oddsmill pipeline run of ")
    assert "is writing there; wait for its end, stop it, or give another folder" in refusals[0]
    verify_dataset(VerifyConfig(dataset=config.output))
    assert not [name for name in files_under(config.output) if name.startswith(".oddsmill-")]
    assert preprocess(config) == manifest  # nothing changed


def test_a_run_that_lost_its_output_while_it_was_paused_publishes_and_deletes_nothing_more(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch, output: str
):
    kept: list[str] = []

    def take_over() -> None:
        """Does what another run does that found this one's lock stale."""
        place, owner = place_of(lock_inside(output)), Owner.of_this_process("oddsmill pipeline run")
        assert place.create(2, owner)
        place.remove(1)
        kept.extend(files_under(output))

    in_the_middle(monkeypatch, take_over)
    with pytest.raises(RunFailed, match=r"--output=\S+ is no longer this run's: oddsmill pipeline run of .*taken it"):
        preprocess(config)
    assert "train-00000-of-00001.arrayrecord" in kept
    assert files_under(output) == kept


@pytest.mark.slow
@pytest.mark.parametrize("step", ["WriteShard", "WriteEmptyShard", "WriteRejects", "WriteManifest"])
def test_every_step_that_writes_looks_at_the_lock(
    run: Callable, write_rows: Callable, triples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    in_the_middle(monkeypatch, lambda: place_of(lock_inside(tmp_path / "out")).remove(1), before=step)
    with pytest.raises(RunFailed, match=r"its lock .*was removed"):
        run("out", write_rows("rows.jsonl", [*triples(5), {"prompt": 1}]), num_shards=9)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("output", ["disk"], indirect=True)
def test_a_folder_that_is_emptied_after_the_manifest_is_no_success(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch, output: str
):
    finish = folder.finish

    def finish_late(path: str, *arguments: Any) -> None:
        place_of(lock_inside(output)).remove(1)
        folder.clear(path)
        finish(path, *arguments)

    monkeypatch.setattr(folder, "finish", finish_late)
    with pytest.raises(RunFailed, match="was removed"):
        preprocess(config)


def test_a_folder_of_others_is_refused_and_holds_no_lock_of_ours(run: Callable, write_rows: Callable, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(Refused, match="files that are not ours"):
        run("out", write_rows("rows.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("output", ["disk"], indirect=True)
def test_a_finished_dataset_is_found_unchanged_where_nothing_can_be_written(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch
):
    manifest = preprocess(config)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder, "locked", refuse)
    assert preprocess(config) == manifest
