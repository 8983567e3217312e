"""SIGTERM and Ctrl-C, noted for the training loop to read between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes the first signal while it is entered; a second Ctrl-C interrupts at once.

    Python delivers signals to the main thread alone: entered in another, it notes nothing and changes nothing.

    Attributes:
      received: the signal; None where there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = signal.Signals(number)
        # Neither print nor logging: the signal may have come in the middle of one, which must not be entered twice.
        os.write(2, f"{self.received.name}: saving after this step\n".encode())
