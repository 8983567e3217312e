"""The ways a command ends early, and the exit codes that go with them.

Exit codes: 0 done, 1 the run failed, 2 the settings or the input were refused, 128 + n stopped in good order
by signal n (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 the reader of the output left), as shells have it.
"""

import errno
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from oddsmill.schemas.process import signals, streams, threads
from oddsmill.schemas.text.printable import printable_message

# Beam adds the name of the step to the message of whatever is raised in it.
_STEP = r" \[while running '[^']*'\]$"

_LONGEST_MESSAGE = 1000  # characters of a library's message


class Refused(Exception):
    """The settings or the input cannot be used. The message says what is wrong, where, and what to do."""


class RunFailed(Exception):
    """The run began and could not end well. The message says what happened and what to do."""


class Stopped(Exception):
    """A signal asked the run to stop, and it did in good order. The message says how it goes on."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def require(condition: bool, name: str, value: object, problem: str) -> None:
    """Refuses a setting: `require(beta > 0, "beta", beta, "must be positive")`."""
    if not condition:
        raise Refused(f"--{name}={value}: {problem}")


def one_line(error: BaseException) -> str:
    """Returns the message of an exception on one line, or the name of its class if it has none.

    Libraries quote what they cannot read, which may be a header of megabytes: the middle of a long message is left out.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return f"{message[: _LONGEST_MESSAGE // 2]} … {message[-_LONGEST_MESSAGE // 2 :]}"


def find_ending(error: BaseException) -> "Refused | RunFailed | None":
    """Returns the refusal or failure that `error` is, wraps or quotes: of several the outermost.

    Libraries wrap what is raised inside them: a chain keeps the cause, but a runner that executes in another thread or
    process keeps only the text of the traceback, in which the class name stands.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (Refused, RunFailed)):
            return type(seen)(re.sub(_STEP, "", str(seen)))
        seen = seen.__cause__ or seen.__context__
    quoted = re.findall(r"\b(Refused|RunFailed): (.+)", str(error))
    if not quoted:
        return None
    kind, message = quoted[-1]
    message = re.sub(_STEP, "", message)
    return Refused(message) if kind == "Refused" else RunFailed(message)


def run_command(command: Callable[[], None], *, prints_result: bool = True) -> int:
    """Runs one command line verb and turns its end into an exit code; a refusal prints no traceback.

    Args:
      prints_result: what the command is for is on its standard output: it fails where that cannot be written, and ends
        where the reader has left. Otherwise what it is for are files, and messages that nobody reads end nothing.
    """
    streams.open_closed_streams()
    with signals.watched(), streams.output_has_a_name() if prints_result else streams.console_may_be_lost():
        try:
            command()
            sys.stdout.flush()
            code, message = 0, ""
        except Exception as error:
            code, message = _ending(error)
        except KeyboardInterrupt:
            code, message = 130, "interrupted: run the same command again to go on"
        with suppress(OSError):  # the standard error may be gone as well
            print(printable_message(message), end="\n" if message else "", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        streams.drop_output()
    return code


def _ending(error: Exception) -> tuple[int, str]:
    """Returns the exit code and the one message of a command that ended with an error.

    Raises:
      Exception: the error itself, where it is a fault of this program.
    """
    if isinstance(error, Stopped):
        return error.exit_code, f"stopped: {error}"
    found = find_ending(error)
    if isinstance(found, RunFailed):
        return 1, f"failed: {found}"
    if found is not None:
        return 2, f"refused: {found}"
    if shortage := threads.shortage_of_threads(error):
        return 1, f"failed: {shortage}"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "oddsmill":
        extras = "pip install 'oddsmill[pipeline]' for the commands of pipeline, 'oddsmill[train]' for those of train"
        return 2, f"refused: the package {error.name} is not installed: {extras}"
    if isinstance(error, OSError) and error.errno is not None:
        if isinstance(error, BrokenPipeError) and error.filename == streams.OUTPUT:
            return 128 + signal.SIGPIPE, ""  # head or less has seen enough
        advice = "; raise the limit (ulimit -n)" if error.errno == errno.EMFILE else ""
        return 1, f"failed: {error.filename or type(error).__name__}: {error.strerror}{advice}"
    raise error
