"""JAX's coordination service, which the processes of a run have in common before their devices know each other.

JAX has no public names for it; `jax.experimental.multihost_utils` takes it from the same place.
"""

from typing import Any

from jax._src import distributed


def is_joined() -> bool:
    """Returns whether this process is one of several that have found each other."""
    return distributed.global_state.client is not None and num_processes() > 1


def num_processes() -> int:
    """Returns how many processes the run has. Other than `jax.process_count` it wakes no device."""
    return int(distributed.global_state.num_processes)


def process_index() -> int:
    """Returns the number of this process, from 0. Other than `jax.process_index` it wakes no device."""
    return int(distributed.global_state.process_id)


def coordination_client() -> Any:
    """Returns the client of the service: a store of keys and values that all processes see."""
    client = distributed.global_state.client
    assert client is not None, "one process has no coordination service"
    return client
