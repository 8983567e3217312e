"""Blocks that wait on disk: what is put away comes back, from any thread, and nothing is left."""

import tempfile
import threading
from pathlib import Path

import pytest

from oddsmill.pipeline.output import spill
from oddsmill.schemas.errors import Refused


def test_blocks_come_back_to_whoever_asks() -> None:
    blocks = [bytes([number]) * (1000 * number) for number in range(1, 30)]
    travelling: dict[int, spill.Travelling] = {}
    with spill.spilling() as key:

        def put(number: int) -> None:
            travelling[number] = spill.put_away(blocks[number], key)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(len(blocks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [spill.fetch(travelling[number]) for number in range(len(blocks))] == blocks
        # A runner may hand a named tuple on as a plain one.
        assert spill.fetch(tuple(travelling[3])) == blocks[3]  # type: ignore[arg-type]


def test_two_runs_of_a_process_keep_apart() -> None:
    with spill.spilling() as outer:
        first = spill.put_away(b"first", outer)
        with spill.spilling() as inner:
            second = spill.put_away(b"second", inner)
            assert (spill.fetch(first), spill.fetch(second)) == (b"first", b"second")
        assert spill.fetch(first) == b"first"


def test_blocks_travel_themselves_where_no_file_is_open() -> None:
    assert spill.put_away(b"block", None) == b"block" == spill.fetch(b"block")


def test_the_file_has_no_name_and_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with spill.spilling() as key:
        spill.put_away(b"block", key)
        assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        spill.put_away(b"block", key)


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with spill.spilling() as key:
        monkeypatch.setattr("os.pwrite", no_space)
        with pytest.raises(Refused, match=r"No space left on device.*TMPDIR"):
            spill.put_away(b"block", key)
