"""Blocks that wait on disk: every thread reads what another wrote, and nothing is left."""

import tempfile
import threading
from pathlib import Path

import pytest

from oddsmill.pipeline.output import spill
from oddsmill.schemas.errors import Refused


def test_any_thread_reads_the_blocks_that_others_wrote() -> None:
    blocks = [bytes([number]) * (1000 * number) for number in range(1, 30)]
    refs: dict[int, bytes | spill.BlockRef] = {}
    with spill.open_spill() as key:

        def write(number: int) -> None:
            refs[number] = spill.write_block(blocks[number], key)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(len(blocks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [spill.read_block(refs[number]) for number in range(len(blocks))] == blocks
        # A runner may hand a named tuple on as a plain one.
        assert spill.read_block(tuple(refs[3])) == blocks[3]  # type: ignore[arg-type]


def test_two_runs_of_a_process_keep_apart() -> None:
    with spill.open_spill() as outer:
        first = spill.write_block(b"first", outer)
        with spill.open_spill() as inner:
            second = spill.write_block(b"second", inner)
            assert (spill.read_block(first), spill.read_block(second)) == (b"first", b"second")
        assert spill.read_block(first) == b"first"


def test_a_block_is_handed_on_itself_where_no_file_is_open() -> None:
    assert spill.write_block(b"block", None) == b"block" == spill.read_block(b"block")


def test_the_file_has_no_name_and_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with spill.open_spill() as key:
        spill.write_block(b"block", key)
        assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        spill.write_block(b"block", key)


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with spill.open_spill() as key:
        monkeypatch.setattr("os.pwrite", no_space)
        with pytest.raises(Refused, match=r"No space left on device.*TMPDIR"):
            spill.write_block(b"block", key)
