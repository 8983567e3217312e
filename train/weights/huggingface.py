"""Hugging Face weights into sharded arrays and out again, a tensor at a time, with no conversion but the dtype's.

Tensors are read by `safetensors.safe_open` and placed by `jax.make_array_from_callback`. A reader of our own, which
read pieces of 8 MiB, was no faster (bench/results/load_cpu2_202611.md), so there is none.
"""

from collections.abc import Callable, Mapping
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
from oddsmill.train.weights.safetensors_files import DTYPES, StoredTensor, listed, stored_tensors, write_tensors

# Tensors that checkpoints hold and no decoder reads; transformers passes over these too.
_UNUSED = ("rotary_emb.inv_freq",)
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


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
      Refused: tensors missing, left over, of another shape or of a dtype that is not supported; the message names
        all of them.
    """
    stored = check_stored(folder, abstract_params, num_layers=num_layers)
    shapes, placed = flatten_dict(abstract_params), flatten_dict(shardings)
    stacked = {path: leaf for path, leaf in shapes.items() if is_stacked(path)}
    params: dict[WeightPath, jax.Array] = jax.jit(
        lambda: {path: jax.lax.empty(leaf.shape, leaf.dtype) for path, leaf in stacked.items()},
        out_shardings={path: placed[path] for path in stacked},
    )()
    tensors = [(stored[name], path, layer) for path in shapes for layer, name in enumerate(hf_names(path, num_layers))]
    for tensor, path, layer in sorted(tensors, key=lambda entry: (entry[0].file, entry[0].name)):
        sharding: NamedSharding = placed[path]
        if path in stacked:
            one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
            params[path] = _layer_writer(sharding)(params[path], _on_devices(tensor, one_layer), layer)
        else:
            params[path] = _on_devices(tensor, sharding).astype(shapes[path].dtype)
        jax.block_until_ready(params[path])  # a tensor whose transfer is not finished holds host memory
    return unflatten_dict(params)


def _on_devices(tensor: StoredTensor, sharding: NamedSharding) -> jax.Array:
    """Returns a stored tensor as a sharded array, in the dtype in which it is stored."""
    parts: dict[str, np.ndarray] = {}  # each part is read once, however many devices hold it

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # JAX's type allows for it
        key = str(index)
        if key not in parts:
            parts[key] = tensor.read(index)
        return parts[key]

    return jax.make_array_from_callback(tensor.shape, sharding, read)


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


def check_stored(folder: str | Path, abstract_params: Params, *, num_layers: int) -> Mapping[str, StoredTensor]:
    """Returns the tensors of a model folder once it has been checked that they are those of our weights.

    An output head that is stored beside a tied embedding must equal it.

    Raises:
      Refused: tensors missing, left over, of another shape or of a dtype that is not supported.
    """
    stored = stored_tensors(folder)
    shapes = flatten_dict(abstract_params)
    wanted = {
        name: tuple(leaf.shape[1:] if is_stacked(path) else leaf.shape)
        for path, leaf in shapes.items()
        for name in hf_names(path, num_layers)
    }
    tied = _HEAD not in wanted
    surplus = [name for name in stored if name not in wanted and not name.endswith(_UNUSED)]
    surplus = [name for name in surplus if not (tied and name == _HEAD)]
    misshaped = [
        f"{name} has shape {list(stored[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    foreign: dict[str, list[str]] = {}
    for name in sorted(stored):
        if stored[name].dtype not in DTYPES and not name.endswith(_UNUSED):
            foreign.setdefault(stored[name].dtype, []).append(name)
    problems = [
        f"{what} {listed(sorted(names))}"
        for what, names in (
            ("missing", [name for name in wanted if name not in stored]),
            ("unexpected", surplus),
            ("misshaped", misshaped),
        )
        if names
    ]
    if foreign:
        dtypes = "; ".join(f"{dtype}: {listed(names, limit=5)}" for dtype, names in foreign.items())
        problems.append(
            f"weights of a dtype that is not trained here ({dtypes}); quantized models cannot be trained: "
            "fetch the model's unquantized version"
        )
    if problems:
        raise Refused(f"{folder}: weights do not fit config.json: {'; '.join(problems)}")
    if tied and _HEAD in stored and not _equal(stored[_HEAD], stored[_EMBEDDING]):
        raise Refused(
            f"{folder}: {_HEAD} differs from {_EMBEDDING}, but config.json ties them; "
            "set tie_word_embeddings to false there"
        )
    return stored


def stored_dtypes(folder: Path, paths: set[WeightPath], *, num_layers: int) -> dict[WeightPath, np.dtype]:
    """Returns the dtype in which a model folder holds each of our weights; the widest, where layers differ.

    A weight that the folder lacks, or holds in a dtype that is not supported, is left out: `load_params` reports it.
    """
    stored = stored_tensors(folder)
    found = {path: {stored[name].dtype for name in hf_names(path, num_layers) if name in stored} for path in paths}
    return {
        path: jnp.result_type(*(DTYPES[name] for name in names))
        for path, names in found.items()
        if names and names <= set(DTYPES)
    }


def _equal(first: StoredTensor, second: StoredTensor) -> bool:
    """Compares two stored matrices bit by bit, some rows at a time."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    for start in range(0, first.shape[0], 4096):
        rows = (slice(start, min(start + 4096, first.shape[0])),)
        if first.read(rows).tobytes() != second.read(rows).tobytes():
            return False
    return True


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
        return _on_host(*sources[name], tensors[name][1])

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
