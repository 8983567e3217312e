"""The device mesh and where every array lies on it. The one table of sharding rules."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from schemas.errors import Refused

BATCH_AXES = ("data", "fsdp")  # rows of a batch are spread over both

# Weight name (dotted, layers stacked on a leading axis) -> which of its dimensions lies on which mesh axis; of several
# choices the first whose dimension can be split evenly. The first match counts. Weights are [out, in]; what reads the
# hidden state is sharded on `in`, what writes it on `out`, so each is gathered whole once a layer. Tables lie by row:
# by column, XLA cannot bring what it looks up there to the rows of the batch without replicating it.
_RULES: tuple[tuple[str, tuple[PartitionSpec, ...]], ...] = (
    (r"^(embed_tokens|lm_head)\.weight$", (PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp"))),
    (r"\.(o_proj|down_proj)\.weight$", (PartitionSpec(None, "fsdp", None),)),
    (r"_proj\.weight$", (PartitionSpec(None, None, "fsdp"),)),
    (r"norm\.weight$|\.bias$", (PartitionSpec(),)),
    # Adapters are split on the side of the weight that is not the rank.
    (r"\.lora_A$", (PartitionSpec(None, None, "fsdp"), PartitionSpec())),
    (r"\.lora_B$", (PartitionSpec(None, "fsdp", None), PartitionSpec())),
)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are arranged.

    Args:
      data: copies of the weights; -1 takes all devices that the other axes leave.
      fsdp: devices over which weights, gradients and optimizer state are spread.
    """

    data: int = -1
    fsdp: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh of all devices.

    Raises:
      Refused: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    data = devices // max(config.fsdp, 1) if config.data == -1 else config.data
    if config.fsdp < 1 or data * config.fsdp != devices:
        raise Refused(
            f"--mesh.data={config.data} --mesh.fsdp={config.fsdp}: their product must be the "
            f"number of devices, {devices} (data=-1 takes what fsdp leaves)"
        )
    # Auto axes: with Explicit ones, the default of make_mesh, ordinary model code raises ShardingTypeError.
    return jax.make_mesh((data, config.fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def param_shardings(abstract_params: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The sharding of every weight, by the table; the same tree as `abstract_params`.

    Raises:
      Refused: a dimension that cannot be split evenly.
    """

    def splits_evenly(shape: tuple[int, ...], spec: PartitionSpec) -> bool:
        return all(axis is None or size % mesh.shape[axis] == 0 for size, axis in zip(shape, spec, strict=False))

    shardings = {}
    for path, leaf in flatten_dict(abstract_params).items():
        name = ".".join(path)
        choices = next(specs for pattern, specs in _RULES if re.search(pattern, name))
        fitting = [spec for spec in choices if splits_evenly(leaf.shape, spec)]
        if not fitting:
            raise Refused(f"--mesh.fsdp={mesh.shape['fsdp']} does not divide {name}, whose shape is {leaf.shape}")
        shardings[path] = NamedSharding(mesh, fitting[0])
    return unflatten_dict(shardings)


def state_shardings(abstract_state: Any, params: dict[str, Any], mesh: Mesh) -> Any:
    """Shardings of a training state: a leaf that ends in a weight's path and has its shape lies as the weight does."""
    by_path, weights = flatten_dict(params), flatten_dict(abstract_state["params"])
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", "")))) for entry in path)
        for start in range(len(names)):
            if names[start:] in by_path and leaf.shape == weights[names[start:]].shape:
                return by_path[names[start:]]
        return replicated

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the batch axes; further dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_on_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of the rows that each process holds: [B_local, ...] -> [B, ...], rows sharded."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
