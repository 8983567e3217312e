"""Hugging Face weights into sharded arrays and out again, a tensor at a time, with no conversion but the dtype's.

Tensors are read by `safetensors.safe_open` and placed by `jax.make_array_from_callback`. A reader of our own, which
read pieces of 8 MiB, was no faster (bench/results/load_cpu2_202611.md), so there is none.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.names import Params, WeightPath, hf_names, is_stacked
from oddsmill.train.parallel.processes import gather_bytes
from oddsmill.train.weights.safetensors_files import StoredTensor, listed, write_tensors
from oddsmill.train.weights.stored_weights import find_stored


def load_params(
    folder: str | Path,
    abstract_params: Params,
    shardings: Params,
    *,
    num_layers: int,
) -> Params:
    """Reads a model folder into sharded arrays, each device its own slice, cast to the dtype asked for.

    The host holds the slices of one tensor at a time. A process reads what its own devices need.

    Args:
      abstract_params: shapes and dtypes of our weights; the result has the same tree.
      shardings: the sharding of each weight; the axis of the layers is never split.

    Raises:
      Refused: as `find_stored`, whose message names all tensors that do not fit; or a tensor holds a number that is not
        finite, on every process alike.
    """
    stored = find_stored(folder, abstract_params, num_layers=num_layers).tensors
    shapes, placed = flatten_dict(abstract_params), flatten_dict(shardings)
    stacked = {path: leaf for path, leaf in shapes.items() if is_stacked(path)}
    params: dict[WeightPath, jax.Array] = jax.jit(
        lambda: {path: jax.lax.empty(leaf.shape, leaf.dtype) for path, leaf in stacked.items()},
        out_shardings={path: placed[path] for path in stacked},
    )()
    not_finite: set[str] = set()
    tensors = [(stored[name], path, layer) for path in shapes for layer, name in enumerate(hf_names(path, num_layers))]
    for tensor, path, layer in sorted(tensors, key=lambda entry: (entry[0].file, entry[0].name)):
        sharding: NamedSharding = placed[path]
        if path in stacked:
            one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
            params[path] = _layer_writer(sharding)(params[path], _on_devices(tensor, one_layer, not_finite), layer)
        else:
            params[path] = _on_devices(tensor, sharding, not_finite).astype(shapes[path].dtype)
        jax.block_until_ready(params[path])  # a tensor whose transfer is not finished holds host memory
    # A process reads its own slices: what one of them holds, all are told.
    wrong = sorted(
        {name for names in gather_bytes(json.dumps(sorted(not_finite)).encode()) for name in json.loads(names)}
    )
    if wrong:
        raise Refused(f"{folder} holds numbers that are not finite in {listed(wrong)}; fetch the model again")
    return unflatten_dict(params)


def _on_devices(tensor: StoredTensor, sharding: NamedSharding, not_finite: set[str]) -> jax.Array:
    """Returns a stored tensor as a sharded array, in the dtype in which it is stored.

    Args:
      not_finite: takes in the tensor's name where NaN or infinity is in what this process reads of it.
    """
    parts: dict[str, np.ndarray] = {}  # each part is read once, however many devices hold it

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # JAX's type allows for it
        key = str(index)
        if key not in parts:
            parts[key] = tensor.read(index)
            if not _is_finite(parts[key]):
                not_finite.add(tensor.name)
        return parts[key]

    return jax.make_array_from_callback(tensor.shape, sharding, read)


def _is_finite(part: np.ndarray) -> bool:
    """Says whether all numbers are finite, by their bits: an exponent of ones alone is that of NaN and infinity.

    Some at a time stay in the processor's cache: that takes a tenth of the time of reading them.
    """
    bits = np.ascontiguousarray(part).reshape(-1).view(f"u{part.dtype.itemsize}")
    exponent = np.array(np.inf, part.dtype).view(bits.dtype)
    starts = range(0, bits.size, 1 << 17)
    return all((bits[start : start + (1 << 17)] & exponent).max() < exponent for start in starts)


@cache
def _layer_writer(sharding: NamedSharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Returns a function that writes one layer into a stacked weight in place."""

    def write(weight: jax.Array, tensor: jax.Array, layer: jax.Array) -> jax.Array:
        # As bits: XLA on CPU copies bfloat16 by way of float32, ten times as slowly.
        bits = jnp.dtype(f"uint{8 * weight.dtype.itemsize}")
        into, what = (jax.lax.bitcast_convert_type(array, bits) for array in (weight, tensor.astype(weight.dtype)))
        whole = jax.lax.dynamic_update_index_in_dim(into, what, layer, 0)
        return jax.lax.bitcast_convert_type(whole, weight.dtype)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def save_params(
    params: Params,
    folder: str | Path,
    *,
    num_layers: int,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    is_writer: bool = True,
) -> None:
    """Writes weights as Hugging Face safetensors: one file, or shards with an index. Every process calls this.

    Args:
      dtype: dtype to cast all weights to; None keeps each weight's own.
      is_writer: True on the process that writes.

    Raises:
      Refused: float16 cannot hold a weight.
    """
    leaves = flatten_dict(params)
    tensors: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    sources: dict[str, tuple[jax.Array, int | None]] = {}
    for path, leaf in leaves.items():
        for layer, name in enumerate(hf_names(path, num_layers)):
            shape = leaf.shape[1:] if is_stacked(path) else leaf.shape
            tensors[name] = tuple(shape), jnp.dtype(dtype or leaf.dtype)
            sources[name] = leaf, layer if is_stacked(path) else None

    def fetch(name: str) -> np.ndarray:
        tensor = _on_host(*sources[name], tensors[name][1])
        if tensor.dtype == np.float16 and not np.isfinite(tensor).all():
            raise Refused(f"{name} holds numbers that float16 cannot hold (its greatest is 65504); export bfloat16")
        return tensor

    write_tensors(Path(folder), tensors, fetch, max_shard_size=max_shard_size, is_writer=is_writer)


@partial(jax.jit, static_argnames="dtype")
def _tensor(weight: jax.Array, layer: int | None, *, dtype: np.dtype) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(weight, jnp.dtype(f"uint{8 * weight.dtype.itemsize}"))  # as in _layer_writer
    tensor = jnp.copy(bits) if layer is None else jax.lax.dynamic_index_in_dim(bits, layer, keepdims=False)
    return jax.lax.bitcast_convert_type(tensor, weight.dtype).astype(dtype)


def _on_host(weight: jax.Array, layer: int | None, dtype: np.dtype) -> np.ndarray:
    """Returns one tensor of a weight on the host. (np.asarray would cache a copy of the whole weight in the weight.)"""
    if not weight.is_fully_addressable:
        return multihost_utils.process_allgather(_tensor(weight, layer, dtype=dtype), tiled=True)
    parts = [shard for shard in weight.addressable_shards if shard.replica_id == 0]
    if len(parts) == 1:
        return np.asarray(_tensor(parts[0].data, layer, dtype=dtype))
    tensor = np.empty(weight.shape if layer is None else weight.shape[1:], dtype)
    for part in parts:
        place = part.index if layer is None else part.index[1:]
        tensor[place] = np.asarray(_tensor(part.data, layer, dtype=dtype))
    return tensor
