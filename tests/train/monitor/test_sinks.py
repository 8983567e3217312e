"""Any place that a run writes to and that fails ends the run with one message, which names it."""

import errno
import io

import pytest

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.monitor.sinks import explain_write_errors, write_whole


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("No space left on device"),
        OSError("No space left on device"),
    ],
)
def test_whatever_a_writer_meets_is_one_message_with_the_file_the_reason_and_what_to_do(tmp_path, error):
    with pytest.raises(RunFailed) as failure, explain_write_errors(tmp_path / "curves.png"):
        raise error
    assert str(failure.value) == (
        f"{tmp_path / 'curves.png'} cannot be written (No space left on device); make room, or make it writable "
        "again. The newest checkpoint is kept, and the same command goes on from it"
    )


@pytest.mark.parametrize("ending", [Refused("no"), RunFailed("no"), KeyboardInterrupt()])
def test_other_endings_pass_as_they_are(tmp_path, ending):
    with pytest.raises(type(ending)) as found, explain_write_errors(tmp_path):
        raise ending
    assert found.value is ending


def test_a_disk_that_takes_a_part_gets_the_rest():
    class Slow(io.BytesIO):
        def write(self, content):
            return super().write(content[:3])

    file = Slow()
    write_whole(file, b"0123456789")
    assert file.getvalue() == b"0123456789"
