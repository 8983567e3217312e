"""Ctrl-C, SIGTERM and SIGHUP, noted for the training loop to read between two steps."""

import signal
from types import TracebackType

from oddsmill.schemas.process.signals import is_command_line, noting, tell


class StopSignals:
    """Notes the first signal while it is entered; a second Ctrl-C ends the command at once.

    Python delivers signals to the main thread alone: entered in another, it notes nothing and changes nothing.

    Attributes:
      received: the signal; None where there was none.
      nothing_to_save: all that the run has is saved; a command then ends at the first signal, whatever it is at.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.nothing_to_save = False
        self._noting = noting(self._note)

    def __enter__(self) -> "StopSignals":
        self._noting.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._noting.__exit__(None, None, None)

    def _note(self, number: signal.Signals) -> bool:
        if self.received is not None:
            return number != signal.SIGINT  # a scheduler may say it twice
        if self.nothing_to_save and is_command_line():
            return False
        self.received = number
        tell(f"{number.name}: saving after this step")
        return True
