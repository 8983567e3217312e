"""The ways a command ends early, and the exit codes that go with them.

Exit codes: 0 done, 1 the run failed, 2 the settings or the input were refused, 128 + n stopped in good order
by signal n (130 Ctrl-C, 143 SIGTERM), as shells have it.
"""

import os
import re
import sys
from collections.abc import Callable

from oddsmill.schemas.text.printable import printable_message

# Beam adds the name of the step to the message of whatever is raised in it.
_STEP = r" \[while running '[^']*'\]$"


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
    """Returns the message of an exception on one line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def find_refusal(error: BaseException) -> str | None:
    """The message of the refusal that caused `error`, if there is one.

    Libraries wrap what is raised inside them: a chain keeps the cause, but a runner that executes in
    another thread or process keeps only the text of the traceback, in which the class name stands.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Refused):
            return re.sub(_STEP, "", str(seen))
        seen = seen.__cause__ or seen.__context__
    match = re.search(r"\bRefused: (.+)", str(error))
    return re.sub(_STEP, "", match.group(1)) if match else None


def find_ending(error: BaseException) -> "Refused | RunFailed | None":
    """Returns the refusal or failure that `error` is, wraps or quotes: of several the outermost."""
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


def run_command(command: Callable[[], None]) -> int:
    """Runs one command line verb and turns its end into an exit code; a refusal prints no traceback."""
    try:
        command()
        sys.stdout.flush()
    except RunFailed as failure:
        print(f"failed: {printable_message(str(failure))}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"stopped: {printable_message(str(stopped))}", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "oddsmill":
            raise
        extras = "pip install 'oddsmill[pipeline]' for the commands of pipeline, 'oddsmill[train]' for those of train"
        print(f"refused: the package {error.name} is not installed: {extras}", file=sys.stderr)
        return 2
    except Exception as error:
        message = find_refusal(error)
        if message is None:
            raise
        print(f"refused: {printable_message(message)}", file=sys.stderr)
        return 2
    return 0
