"""Several processes as one: how they find each other, and small messages between them.

Messages go through the key-value store of JAX's coordination service: the devices have no part in them, so a process
may send one between two steps without waiting for its devices.
"""

import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.process.threads import check_threads
from oddsmill.train.config.devices import DistributedConfig
from oddsmill.train.parallel.coordination import coordination_client, is_joined, num_processes, process_index
from oddsmill.train.parallel.failures import ProcessLost, raise_failure, telling_others, watch_others

# A process that is killed has sent no heartbeat for so long when JAX ends the others.
_HEARTBEAT_TIMEOUT_S = 50
# How often a process that waits for a message looks whether another has failed, and when it first says that it waits.
_LOOKS_EVERY_MS, _PATIENCE_S = 1000, 60
_gathered = itertools.count()
# A run takes about so many threads, as measured, and some more for each core.
_THREADS = 112


def join_processes(config: DistributedConfig) -> None:
    """Waits for the other processes, so that JAX sees the devices of all. Comes before any other use of JAX.

    Nothing is joined where nothing is given, or where the caller has done it already. One process has the console:
    of the others only errors are shown. Where the others do not come in time this process ends, with one message.

    Raises:
      Refused: no cluster is found, or JAX has been used before.
      NoThreads: JAX would abort for want of threads.
    """
    check_threads(_THREADS + 4 * (os.cpu_count() or 1), "JAX")
    if not jax.distributed.is_initialized() and config != DistributedConfig():
        try:
            with _ends_unless_all_come(config):
                jax.distributed.initialize(
                    config.coordinator_address,
                    config.num_processes,
                    config.process_id,
                    cluster_detection_method=None if config.detect_cluster else "deactivate",
                    # JAX ends a process that waits too long by an abort and a stack of C++: it never comes to that.
                    initialization_timeout=2 * config.initialization_timeout + 60,
                    heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
                )
        except (ValueError, RuntimeError) as error:
            raise Refused(
                f"the processes cannot be joined ({one_line(error)}). Without a cluster that JAX knows give "
                "--distributed.coordinator_address, --distributed.num_processes and --distributed.process_id"
            ) from error
        watch_others()
    if process_index() > 0:
        log.setLevel(logging.ERROR)


@contextmanager
def _ends_unless_all_come(config: DistributedConfig) -> Iterator[None]:
    """Ends the program with a message where the body, which nothing interrupts, takes longer than the settings say."""

    def end() -> None:
        own = "" if config.process_id is None else f"process {config.process_id}: "
        count = config.num_processes or "the cluster's"
        print(
            f"refused: {own}after {config.initialization_timeout} s not all of {count} processes have come to "
            f"{config.coordinator_address or 'the first one'}. See that each is started, with the same "
            "--distributed.num_processes and a --distributed.process_id of its own, and can reach that address; "
            "--distributed.initialization_timeout waits longer",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(config.initialization_timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def together() -> Iterator[None]:
    """Holds what several processes do together: it ends well in all of them, or in none.

    Where one fails the others are told its reason, and at the end each waits for all.

    Raises:
      RefusedElsewhere, ProcessLost: another process refused, failed or is gone.
    """
    with telling_others():
        yield
        gather_bytes(b"")


def gather_bytes(message: bytes) -> list[bytes]:
    """Returns the messages of all processes, in the order of processes. All of them must call this alike.

    Raises:
      RefusedElsewhere, ProcessLost: another process refused, failed or is gone.
    """
    if not is_joined():
        return [message]
    client, number, count = coordination_client(), next(_gathered), num_processes()
    folder = f"oddsmill/gathered/{number}"
    try:
        if process_index() > 0:
            client.key_value_set_bytes(f"{folder}/{process_index():08d}", message)
            return _unpacked(_wait_for(f"{folder}/all", 0))
        messages = [message, *(_wait_for(f"{folder}/{other:08d}", other) for other in range(1, count))]
        client.key_value_set_bytes(f"{folder}/all", _packed(messages))
        if number:  # all have read the messages before these: they came here
            client.key_value_delete(f"oddsmill/gathered/{number - 1}")
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLost(f"another process is gone or failed ({one_line(error)})") from error
    return messages


def _wait_for(key: str, process: int) -> bytes:
    """Returns the value of a key that a process writes, as long as no process has failed."""
    patient_until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return bytes(coordination_client().blocking_key_value_get_bytes(key, _LOOKS_EVERY_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        raise_failure()
        if time.monotonic() > patient_until:
            log.warning(f"waiting for process {process}, which lives but has not come as far as this one")
            patient_until = float("inf")


def _packed(messages: list[bytes]) -> bytes:
    return b"".join(len(message).to_bytes(8, "little") + message for message in messages)


def _unpacked(packed: bytes) -> list[bytes]:
    messages = []
    while packed:
        end = 8 + int.from_bytes(packed[:8], "little")
        messages.append(packed[8:end])
        packed = packed[end:]
    return messages
