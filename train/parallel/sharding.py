"""The device mesh and where every array lies on it. The one table of sharding rules."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # rows of a batch are spread over both; devices along `tensor` share theirs

# Weight name (dotted, layers stacked on a leading axis) -> which of its dimensions lies on which mesh axis; of several
# choices the first whose dimension can be split evenly. The first match counts. Weights are [out, in]; what reads the
# hidden state is sharded by fsdp on `in`, what writes it on `out`, so each is gathered whole over fsdp once a layer.
# The other dimension, that of heads or of the MLP's inside, lies along tensor and stays split: a product there, one sum
# over tensor after it. Tables lie by row: by column, XLA cannot bring what it looks up there to the rows of the batch
# without replicating it.
_RULES: tuple[tuple[str, tuple[PartitionSpec, ...]], ...] = (
    (
        r"^(embed_tokens|lm_head)\.weight$",
        (PartitionSpec(("tensor", "fsdp"), None), PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp")),
    ),
    (r"\.(o_proj|down_proj)\.weight$", (PartitionSpec(None, "fsdp", "tensor"),)),
    (r"_proj\.weight$", (PartitionSpec(None, "tensor", "fsdp"),)),
    (r"norm\.weight$|\.bias$", (PartitionSpec(),)),
    # Adapters are split on the side of the weight that is not the rank; they are small, so tensor holds copies.
    (r"\.lora_A$", (PartitionSpec(None, None, "fsdp"), PartitionSpec())),
    (r"\.lora_B$", (PartitionSpec(None, "fsdp", None), PartitionSpec())),
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices, or of some.

    Raises:
      Refused: the axes do not multiply to the number of devices, or processes would hold rows in part.
    """
    count = jax.device_count() if devices is None else len(devices)
    others = config.fsdp * config.tensor
    data = count // max(others, 1) if config.data == -1 else config.data
    if min(config.fsdp, config.tensor) < 1 or data * others != count:
        raise Refused(
            f"--mesh.data={config.data} --mesh.fsdp={config.fsdp} --mesh.tensor={config.tensor}: their product must "
            f"be the number of devices, {count} (data=-1 takes what the others leave)"
        )
    # Auto axes: with Explicit ones, the default of make_mesh, ordinary model code raises ShardingTypeError.
    mesh = jax.make_mesh((data, config.fsdp, config.tensor), MESH_AXES, (AxisType.Auto,) * 3, devices=devices)
    row_share(mesh)
    return mesh


def param_shardings(abstract_params: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The sharding of every weight, by the table; the same tree as `abstract_params`.

    Raises:
      Refused: a dimension that cannot be split evenly.
    """

    def splits_evenly(shape: tuple[int, ...], spec: PartitionSpec) -> bool:
        return all(size % _num_shares(mesh, axes) == 0 for size, axes in zip(shape, spec, strict=False))

    shardings = {}
    for path, leaf in flatten_dict(abstract_params).items():
        name = ".".join(path)
        choices = next(specs for pattern, specs in _RULES if re.search(pattern, name))
        fitting = [spec for spec in choices if splits_evenly(leaf.shape, spec)]
        if not fitting:
            sizes = " ".join(
                f"--mesh.{axis}={mesh.shape[axis]}" for axis in choices[-1] if axis and mesh.shape[axis] > 1
            )
            raise Refused(f"{sizes} does not divide {name}, whose shape is {leaf.shape}")
        shardings[path] = NamedSharding(mesh, fitting[0])
    return unflatten_dict(shardings)


def _num_shares(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts a dimension is split that lies on these axes."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


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


def shard_bytes(tree: Any) -> int:
    """Bytes of a device's part of arrays, or of their shapes, that have shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the batch axes; further dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


class RowShare(NamedTuple):
    """Which part of every batch's rows a process reads: `shard_index` of `shard_count` equal ones."""

    shard_index: int
    shard_count: int


def num_row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split; their number must be a multiple of it."""
    return _num_shares(mesh, BATCH_AXES)


def row_share(mesh: Mesh) -> RowShare:
    """This process's share. Processes that differ along `tensor` alone read the same rows.

    Raises:
      Refused: two processes would share some of their rows and not the others.
    """
    num_rows = num_row_shards(mesh)
    held: dict[int, set[int]] = {}
    rows_of: dict[Any, Any] = dict(batch_sharding(mesh).devices_indices_map((num_rows,)))
    for device, (rows,) in rows_of.items():
        held.setdefault(device.process_index, set()).add(rows.start or 0)
    shares = sorted({tuple(sorted(rows)) for rows in held.values()})
    if any(len(share) * len(shares) != num_rows for share in shares):
        raise Refused(
            f"--mesh.tensor={mesh.shape['tensor']}: must divide the devices of a process, or be a multiple of them "
            f"({mesh.size // len(held)})"
        )
    return RowShare(shares.index(tuple(sorted(held[jax.process_index()]))), len(shares))


def put_on_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of the rows that each process holds: [B_local, ...] -> [B, ...], rows sharded."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
