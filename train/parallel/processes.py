"""Several processes as one: how they find each other, and small messages between them.

Messages go through the key-value store of JAX's coordination service: the devices have no part in them, so a process
may send one between two steps without waiting for its devices.
"""

import itertools
import logging
from typing import Any

import jax
from jax._src import distributed

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import DistributedConfig

# A process that is lost ends the wait of the others much sooner, by its missing heartbeats.
_LONGEST_WAIT_MS = 24 * 3600 * 1000
_gathered = itertools.count()


def join_processes(config: DistributedConfig) -> None:
    """Waits for the other processes, so that JAX sees the devices of all. Comes before any other use of JAX.

    Nothing is joined where nothing is given, or where the caller has done it already. One process has the console:
    of the others only errors are shown.

    Raises:
      Refused: no cluster is found, or JAX has been used before.
    """
    if not jax.distributed.is_initialized() and config != DistributedConfig():
        try:
            jax.distributed.initialize(
                config.coordinator_address,
                config.num_processes,
                config.process_id,
                cluster_detection_method=None if config.detect_cluster else "deactivate",
            )
        except (ValueError, RuntimeError) as error:
            raise Refused(
                f"the processes cannot be joined ({error}). Without a cluster that JAX knows give "
                "--distributed.coordinator_address, --distributed.num_processes and --distributed.process_id"
            ) from error
    if jax.process_index() > 0:
        log.setLevel(logging.ERROR)


def coordination_client() -> Any:
    """Returns the client of JAX's coordination service, which several processes have in common.

    JAX has no public name for it; `jax.experimental.multihost_utils` takes it from the same place.
    """
    client = distributed.global_state.client
    assert client is not None, "one process has no coordination service"
    return client


def gather_bytes(message: bytes) -> list[bytes]:
    """Returns the messages of all processes, in the order of processes. All of them must call this alike.

    Raises:
      JaxRuntimeError: another process is lost.
    """
    if jax.process_count() == 1:
        return [message]
    client, number = coordination_client(), next(_gathered)
    folder = f"oddsmill/gathered/{number}"
    client.key_value_set_bytes(f"{folder}/{jax.process_index():08d}", message)
    client.wait_at_barrier(folder, _LONGEST_WAIT_MS)
    if number and jax.process_index() == 0:  # all have read the messages before these: they came here
        client.key_value_delete(f"oddsmill/gathered/{number - 1}")
    return [found for _, found in sorted(client.key_value_dir_get_bytes(folder))]
