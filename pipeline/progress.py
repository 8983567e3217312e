"""Progress on the console during a run: counters that the workers increment, and a line that shows them.

The counters are variables of this module, so they work where the workers are threads of the launcher's process, which
they are with the embedded runner. A worker in another process increments counters that nobody reads, and a bundle
that is tried again counts twice. So they are for the console only; the numbers of the manifest come from the data.
"""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

QUIET_S = 3.0
LINE_EVERY_S = 5.0
REFRESHES_PER_S = 4
_lock = threading.Lock()
_counts: Counter[str] = Counter()
_last_read = 0.0


def count(**numbers: int) -> None:
    """Adds to the counters rows_read, pairs, drops and rows_written. It is cheap, but meant for batches."""
    global _last_read
    with _lock:
        _counts.update(numbers)
        if "rows_read" in numbers:
            _last_read = time.monotonic()


def take() -> dict[str, int]:
    """Returns the counters and sets them to zero: a worker of ours sends them to the process that shows them."""
    with _lock:
        counts = dict(_counts)
        _counts.clear()
    return counts


@contextlib.contextmanager
def shown(
    stream: TextIO | None = None, *, quiet_s: float = QUIET_S, line_every_s: float = LINE_EVERY_S
) -> Iterator[None]:
    """Resets the counters and shows them while the body runs: in place on a terminal, else by a line now and then.

    A run that ends within `quiet_s` shows nothing.

    Args:
      stream: Where to write; by default the standard error as it is now, even if the body redirects it.
      quiet_s: Seconds before anything is shown.
      line_every_s: Seconds from line to line where the stream is no terminal.
    """
    with _lock:
        _counts.clear()
    from rich.console import Console  # here, since workers have no need of it

    console = Console(file=stream or sys.stderr, highlight=False)
    done = threading.Event()
    arguments = (console, done, time.monotonic(), quiet_s, line_every_s)
    thread = threading.Thread(target=_show, args=arguments, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def line(started: float) -> str:
    """Formats the counters for people; the rate is that of reading.

    Args:
      started: When the run started, by `time.monotonic`.
    """
    with _lock:
        counts, last_read = _counts.copy(), _last_read
    rate = counts["rows_read"] / max(last_read - started, 1e-3) if counts["rows_read"] else 0.0
    return (
        f"{counts['rows_read']:,} rows read ({rate:,.0f}/s), {counts['pairs']:,} pairs, {counts['drops']:,} dropped, "
        f"{counts['rows_written']:,} rows written, {time.monotonic() - started:.0f} s"
    )


def _show(console: "Console", done: threading.Event, started: float, quiet_s: float, line_every_s: float) -> None:
    if done.wait(quiet_s):
        return
    if not console.is_terminal:
        console.print(line(started), soft_wrap=True)
        while not done.wait(line_every_s):
            console.print(line(started), soft_wrap=True)
        return
    from rich.live import Live
    from rich.text import Text

    # Rich leaves the streams alone, so that others print as they would without it.
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        while not done.wait(1 / REFRESHES_PER_S):
            live.update(Text(line(started), overflow="ellipsis", no_wrap=True), refresh=True)
