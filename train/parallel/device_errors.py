"""Errors of devices, disks and other processes, explained in one message instead of a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.parallel.coordination import is_joined
from oddsmill.train.parallel.failures import ProcessLost, raise_failure

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GO_ON = " The same command goes on from the newest checkpoint"
_TRAINING_NEEDS_LESS = (
    "A lower --total_batch_size with more --gradient_accumulation_steps, --gradient_checkpointing=true or a larger "
    "--mesh.fsdp needs less"
)
_NEEDS_LESS = "More devices along --mesh.fsdp, or where there is one a lower --batch_size, needs less"


@contextmanager
def explain_device_errors(run_dir: str | None = None) -> Iterator[None]:
    """Turns a full disk, full device memory and a lost process into `RunFailed`; other errors pass as they are.

    Args:
      run_dir: of a training, which can go on; None for a command that cannot.

    Raises:
      RunFailed: one of the three happened.
    """
    go_on = _GO_ON if run_dir else ""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise RunFailed(f"{error.filename or run_dir or 'output'}: {error.strerror}. Make room.{go_on}") from error
    except jax.errors.JaxRuntimeError as error:
        line = str(error).strip().splitlines()[0]
        if "RESOURCE_EXHAUSTED" in line:
            needs_less = _TRAINING_NEEDS_LESS if run_dir else _NEEDS_LESS
            raise RunFailed(f"the devices have no memory left ({line}). {needs_less}") from error
        if is_joined():
            raise_failure()
            raise ProcessLost(f"another process is gone or failed ({line}).{go_on}") from error
        raise
