"""The device mesh, and the sharding of every array on it. `_RULES` is the one table of weights' shardings."""

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
BATCH_AXES = ("data", "fsdp")  # rows of a batch are split over both; devices along `tensor` hold the same rows

# (pattern of a weight's dotted name, its sharding). The first pattern that matches counts; of several shardings, the
# first that splits the weight evenly. Layers are stacked on a leading axis.
#
# Weights are [out, in]. A layer that reads the hidden state is split over fsdp on `in`, one that writes it on `out`, so
# each is gathered over fsdp once a layer. The other dimension, heads or the MLP's inner size, is split over tensor and
# stays so: each device computes its part, and one sum over tensor follows. Embeddings are split by row: if they were
# split by column, XLA would have to replicate the looked-up vectors to bring them to the rows of the batch.
_RULES: tuple[tuple[str, tuple[PartitionSpec, ...]], ...] = (
    (
        r"^(embed_tokens|lm_head)\.weight$",
        (PartitionSpec(("tensor", "fsdp"), None), PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp")),
    ),
    (r"\.(o_proj|down_proj)\.weight$", (PartitionSpec(None, "fsdp", "tensor"),)),
    (r"_proj\.weight$", (PartitionSpec(None, "tensor", "fsdp"),)),
    (r"norm\.weight$|\.bias$", (PartitionSpec(),)),
    # Adapters are split on the dimension that is not the rank. They are small, so each device along tensor has a copy.
    (r"\.lora_A$", (PartitionSpec(None, None, "fsdp"), PartitionSpec())),
    (r"\.lora_B$", (PartitionSpec(None, "fsdp", None), PartitionSpec())),
)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of the given devices, or of all that JAX has.

    Raises:
      Refused: the axes do not multiply to the number of devices, or two processes would share only some rows.
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
    """Returns the sharding of every weight by the table, as a tree like `abstract_params`.

    Raises:
      Refused: a weight has a dimension that the mesh does not divide.
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
    """Returns into how many parts these mesh axes split a dimension."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def state_shardings(abstract_state: Any, params: dict[str, Any], mesh: Mesh) -> Any:
    """Returns the shardings of a training state as a tree like it.

    A leaf whose path ends in a weight's path and that has its shape, such as a moment, is sharded like the weight; all
    others are replicated.
    """
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
    """Returns the bytes of one device's parts of a tree of arrays, or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows are split over the batch axes, other dimensions are not."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


class RowShare(NamedTuple):
    """The part of every batch's rows that a process reads: number `shard_index` of `shard_count` equal parts."""

    shard_index: int
    shard_count: int


def num_row_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split; it must divide their number."""
    return _num_shares(mesh, BATCH_AXES)


def row_share(mesh: Mesh) -> RowShare:
    """Returns the part of the rows that this process reads. Processes that differ only along `tensor` read the same.

    Raises:
      Refused: two processes would share only some of their rows.
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
    """Returns a batch as global arrays, made of the rows of each process: [B_local, ...] -> [B, ...], split by rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
