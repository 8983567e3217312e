"""Several processes as one: how they find each other."""

import jax

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import DistributedConfig


def join_processes(config: DistributedConfig) -> None:
    """Waits for the other processes, so that JAX sees the devices of all. Comes before any other use of JAX.

    Nothing happens where nothing is given, or where the caller has done it already.

    Raises:
      Refused: no cluster is found, or JAX has been used before.
    """
    if jax.distributed.is_initialized() or config == DistributedConfig():
        return
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
