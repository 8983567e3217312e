"""The failure of one process, told to the others: none waits for a process that does not come.

A process that fails writes its reason into the coordination service. The others find it there, whatever they wait for:
a message (`gather_bytes` looks), a device (its error is explained by what stands there), or something that never
returns, such as a barrier of a library: then a thread that watches the service ends the process.
"""

import atexit
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn, TypeVar

import jax

from oddsmill.schemas.errors import Refused, RunFailed, one_line, run_command
from oddsmill.schemas.process.signals import is_command_line
from oddsmill.schemas.text.printable import printable
from oddsmill.train.parallel.coordination import coordination_client, is_joined, num_processes, process_index

Error = TypeVar("Error", bound=BaseException)

_FOLDER, _GONE = "oddsmill/failed/", "oddsmill/gone/"
# How often the watching thread looks, and how long the main thread then has to find the failure itself: it looks every
# second where it waits for messages, and a lost connection ends a wait of devices at once.
_LOOKS_EVERY_S, _GRACE_S = 2.0, 8.0
_noticed = threading.Event()  # the main thread knows of a failure, and ends by itself
_depth = 0  # of `telling_others`: 0 where this process does nothing together with others


class ProcessLost(RunFailed):
    """Another process of the run is gone, or failed."""


class RefusedElsewhere(Refused):
    """Another process of the run has refused its settings or its input."""


class Failure(NamedTuple):
    """The end of a process by itself.

    Attributes:
      process: its number.
      is_refusal: settings or input were refused there.
      reason: the message of its error.
    """

    process: int
    is_refusal: bool
    reason: str

    @property
    def message(self) -> str:
        return f"process {self.process} {'refused' if self.is_refusal else 'failed'}: {self.reason}"

    def error(self) -> ProcessLost | RefusedElsewhere:
        """Returns the error that ends a process by the failure of another."""
        return RefusedElsewhere(self.message) if self.is_refusal else ProcessLost(self.message)


def agreed(error: Error) -> Error:
    """Marks an error that all processes raise alike, in the same place: none has to be told of it."""
    error.__dict__["agreed by all processes"] = True
    return error


def _is_agreed(error: BaseException) -> bool:
    return "agreed by all processes" in error.__dict__


def find_failure() -> Failure | None:
    """Returns the first failure that another process has told, by number; None where there is none."""
    if not is_joined():
        return None
    for key, value in sorted(coordination_client().key_value_dir_get(_FOLDER)):
        process = int(key.rsplit("/", 1)[-1])
        if process != process_index():
            return Failure(process, *json.loads(value))
    return None


def raise_failure() -> None:
    """Raises the failure of another process, if there is one.

    Raises:
      RefusedElsewhere, ProcessLost: another process refused, or failed.
    """
    failure = find_failure()
    if failure is not None:
        _noticed.set()
        raise failure.error()


@contextmanager
def telling_others() -> Iterator[None]:
    """Tells the other processes of an error that ends what they do together; it passes on."""
    global _depth
    _depth += 1
    try:
        yield
    except BaseException as error:
        tell_others(error)
        raise
    finally:
        _depth -= 1


def tell_others(error: BaseException) -> None:
    """Tells the other processes of an error, unless they raise it too or it is theirs."""
    if not is_joined() or _is_agreed(error):
        return
    _noticed.set()
    if isinstance(error, ProcessLost | RefusedElsewhere):
        return
    is_known = isinstance(error, Refused | RunFailed)
    reason = one_line(error) if is_known else f"{type(error).__name__}: {one_line(error)}"
    try:
        if find_failure() is not None:
            return  # this error is most likely what came of that one
        key = f"{_FOLDER}{process_index():08d}"
        coordination_client().key_value_set(key, json.dumps([isinstance(error, Refused), reason]), True)
    except jax.errors.JaxRuntimeError:
        pass  # the service is gone, and every process with it


@contextmanager
def ends_for_all() -> Iterator[None]:
    """Ends a command line at once where one process fails: an ordinary end would wait minutes for the others.

    An error that all raise alike passes. For the command line alone: the interpreter's own clean-up does not run.
    """
    try:
        yield
    except BaseException as error:
        if not is_joined() or _is_agreed(error):
            raise
        tell_others(error)
        _leave(_exit_code(error))


def _exit_code(error: BaseException) -> int:
    """Prints what a command line prints of an error; returns its exit code."""

    def fail() -> None:
        raise error

    try:
        return run_command(fail)
    except BaseException:
        traceback.print_exc()
        return 1


def _leave(code: int) -> NoReturn:
    """Ends this process. The first, whose service the others read the reason from, lets them go before it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()
    try:
        client, others = coordination_client(), num_processes() - 1
        if process_index() > 0:
            client.key_value_set(f"{_GONE}{process_index():08d}", "", True)
        else:
            last_moment = time.monotonic() + _LOOKS_EVERY_S + _GRACE_S + 5
            while len(client.key_value_dir_get(_GONE)) < others and time.monotonic() < last_moment:
                time.sleep(0.1)
    except jax.errors.JaxRuntimeError:
        pass  # the service is gone
    os._exit(code)


def watch_others() -> None:
    """Starts the thread that ends this process where another fails and the main thread does not find out."""
    if is_joined():
        watching = threading.Thread(target=_watch, name="watch other processes", daemon=True)
        watching.start()
        # Python aborts where a thread comes back from the service's C++ while the interpreter is taken apart.
        atexit.register(watching.join, _LOOKS_EVERY_S)
        atexit.register(_noticed.set)  # what is registered last is called first


def _watch() -> None:
    while not _noticed.wait(_LOOKS_EVERY_S):
        try:
            failure = find_failure()
        except Exception:
            return  # the service ends: so does this process, or JAX ends it
        if failure is None or _noticed.wait(_GRACE_S):
            continue
        if not _depth and not is_command_line():
            continue  # a script that is at something of its own, and waits for nobody
        word, code = ("refused", 2) if failure.is_refusal else ("failed", 1)
        print(f"{word}: {printable(failure.message)}", file=sys.stderr, flush=True)
        _leave(code)
