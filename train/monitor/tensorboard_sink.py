"""Metrics and samples as an event file of TensorBoard."""

import math
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import Summary, scalar, text

from oddsmill.train.monitor.sinks import explain_write_errors, write_whole


class TensorboardSink:
    """An event file, each event of which is on its way to the disk when the call that wrote it returns.

    tensorboardX's own writer leaves that to a thread. The thread dies of a full disk, nobody is told, and the run waits
    for ever to hand it the next metric.

    Args:
      folder: where event files lie; it is made.
      first_step: TensorBoard hides what an earlier start wrote of later steps.

    Raises:
      RunFailed: the file cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        with explain_write_errors(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)  # what was not written is not tried again when it is closed
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers among the metrics of a step that are finite.

        Raises:
          RunFailed: the file cannot be written.
        """
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        shown = [scalar(name, value).value[0] for name, value in numbers.items() if math.isfinite(value)]
        self._write(Event(step=step, summary=Summary(value=shown)))

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Writes answers of a step as texts.

        Raises:
          RunFailed: the file cannot be written.
        """
        for number, sample in enumerate(samples):
            lines = [f"**{name}**\n\n{value}" for name, value in sample.items() if name != "step"]
            self._write(Event(step=step, summary=text(f"samples/{number}", "\n\n".join(lines))))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        """Appends one record of TensorFlow's format: length, its checksum, content, its checksum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        with explain_write_errors(self._path):
            write_whole(self._file, b"".join((length, checksums[0], content, checksums[1])))
