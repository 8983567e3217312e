"""Signals that end a command, Ctrl-C, SIGTERM and SIGHUP, from its first instruction to its last.

A handler that raises is no sure end: imports swallow the exception, and a compilation is torn down while C++ still
works with it, which ends in a segmentation fault. So a command ends as a kill would end it, when it has cleaned up what
it registered here; what is to happen instead, a training says while it lasts.

Python runs handlers in the main thread alone, between two instructions. A thread beside it sees each signal at once and
acts where the main thread does not, which may be minutes in a compilation or in a disk that does not answer.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLEAN_UP_S = 10.0
STUCK_S = 1.0

_cleanups: list[Callable[[], object]] = []
_notes: list[Callable[[signal.Signals], bool]] = []


class _Watch:
    """The state of a command whose signals are watched; a process has one at most.

    Attributes:
      before: the handlers that it took the place of.
      wakeup_before: the descriptor to which Python wrote signals; -1 where there was none. A notebook's loop has one.
      ending: the signal that ends the command.
      calls: how often the main thread has been called for a signal.
      claimed: signals that the thread acts on, and the main thread will still be called for.
    """

    def __init__(self) -> None:
        self.before: dict[signal.Signals, Any] = {}
        self.wakeup_before = -1
        self.ending: int | None = None
        self.calls = 0
        self.claimed: set[int] = set()
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.write_end, False)
        self.thread = threading.Thread(target=_watch, args=(self,), name="signals", daemon=True)


_current: _Watch | None = None


def start_watching() -> None:
    """Takes the signals of a command line for as long as the process lives, or until `stop_watching`."""
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        return
    _current = _Watch()
    _current.before = _install()
    try:
        _current.thread.start()
        _current.wakeup_before = signal.set_wakeup_fd(_current.write_end, warn_on_full_buffer=False)
    except RuntimeError:
        pass  # no thread to be had: the main thread acts alone


def stop_watching() -> None:
    """Gives the signals back to whom they belonged."""
    global _current
    if _current is None:
        return
    signal.set_wakeup_fd(_current.wakeup_before)
    _restore(_current.before)
    os.close(_current.write_end)  # ends the thread
    _current = None


@contextmanager
def watched() -> Iterator[None]:
    """Takes the signals while the body runs; nothing happens where a command around this one has them."""
    if _current is not None:
        yield
        return
    start_watching()
    try:
        yield
    finally:
        stop_watching()


def is_command_line() -> bool:
    """Tells whether this process is a command that may be ended, and no script or notebook that uses the library."""
    return _current is not None


@contextmanager
def on_end(clean_up: Callable[[], object]) -> Iterator[None]:
    """Calls `clean_up` if a signal ends the command while the body runs.

    It is called in another thread, while the body stands still or not, and has a few seconds for it. What has to hold
    after a kill must not depend on it.
    """
    _cleanups.append(clean_up)
    try:
        yield
    finally:
        _cleanups.remove(clean_up)


@contextmanager
def noting(note: Callable[[signal.Signals], bool]) -> Iterator[None]:
    """Asks `note` about each signal while the body runs; where it returns False the command ends at once.

    Of a process that is no command line Ctrl-C interrupts as Python does it, and other signals do nothing. Python gives
    signals to the main thread alone: in another one nothing is noted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _install()
    _notes.append(note)
    try:
        yield
    finally:
        _notes.remove(note)
        _restore(before)


def end_at_once(number: int) -> NoReturn:
    """Ends the command, with one line, its clean-up done or ten seconds over."""
    assert _current is not None
    watch = _current
    if watch.ending is None:
        watch.ending = number
        name = signal.Signals(number).name
        tell(f"interrupted by {name}: run the same command again to go on")
        if threading.current_thread() is watch.thread:
            cleaning = threading.Thread(target=_clean_up, daemon=True)
            cleaning.start()
            cleaning.join(CLEAN_UP_S)
        elif watch.thread.is_alive():
            os.write(watch.write_end, b"\0")  # cleans up there, while this thread stands still
            time.sleep(CLEAN_UP_S)
    os._exit(128 + watch.ending)


def tell(line: str) -> None:
    """Writes a line to the standard error from inside a handler, where print must not be entered twice."""
    cursor = "\n\x1b[?25h" if os.isatty(2) else ""  # a bar may have hidden it
    with suppress(OSError):
        os.write(2, f"{cursor}{line}\n".encode())


def _install() -> dict[signal.Signals, Any]:
    """Returns the handlers before. What nohup has set to be ignored stays ignored."""
    kept = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    return {number: signal.signal(number, _on_signal) for number in ENDING if number not in kept}


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Runs in the main thread."""
    if _current is not None:
        _current.calls += 1
        try:
            _current.claimed.remove(number)
        except KeyError:
            pass
        else:
            return
    _act(number)


def _act(number: int) -> None:
    if _current is not None and _current.ending is not None:
        if number == signal.SIGINT:
            os._exit(128 + _current.ending)  # somebody does not want to wait for the clean-up
        return
    if any(note(signal.Signals(number)) for note in _notes[-1:]):  # the main thread may take it away meanwhile
        return
    if _current is not None:
        end_at_once(number)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt


def _watch(watch: _Watch) -> None:
    """Looks at each signal as it arrives, and acts where the main thread has called no handler for a second."""
    seen = 0
    with os.fdopen(watch.read_end, "rb", buffering=0) as pipe:
        while select.select([pipe], [], []):
            stuck_at = time.monotonic() + STUCK_S
            while watch.calls == seen and watch.ending is None and time.monotonic() < stuck_at:
                time.sleep(0.05)
            # Read only now: the main thread may have answered several signals by one call. The count is taken before: a
            # signal that is taken for answered waits for the main thread, one that is answered twice ends the command.
            is_stuck, seen = watch.calls == seen, watch.calls
            numbers = pipe.read(4096)
            if not numbers:
                return
            if 0 in numbers:
                _clean_up()
                os._exit(128 + (watch.ending or 0))
            for number in numbers:
                if is_stuck and number in ENDING and _current is watch and _claim(watch, number, seen):
                    _act(number)


def _claim(watch: _Watch, number: int, seen: int) -> bool:
    """Takes a signal from the main thread, which may wake up just now: one of the two acts on it, and one alone.

    The main thread first counts its call, then looks for the claim; the thread first claims, then looks at the count.
    """
    watch.claimed.add(number)
    if watch.calls == seen:
        return True
    try:
        watch.claimed.remove(number)
    except KeyError:  # the main thread has found the claim
        return True
    return False


def _clean_up() -> None:
    # Workers that are processes know nothing of this end: on a terminal they were signalled too, elsewhere not.
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            with suppress(Exception):
                child.kill()
    for clean_up in reversed(_cleanups):
        with suppress(Exception):
            clean_up()


def _forget() -> None:
    """A process that was forked is no command: it has its signals to itself."""
    global _current
    if _current is not None:
        with suppress(ValueError):  # another thread than the main one has forked
            signal.set_wakeup_fd(-1)
            _restore(_current.before)
        os.close(_current.write_end)
        _current = None
    _notes.clear()
    _cleanups.clear()


os.register_at_fork(after_in_child=_forget)
