"""Hugging Face weights in and out of sharded arrays: a piece at a time, no conversion but the dtype."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.names import WeightPath, hf_names, is_stacked
from oddsmill.train.weights.safetensors_files import DTYPES, StoredTensor, listed, stored_tensors, write_tensors

# A piece on all devices of a process together. Small ones stay in the processor's cache: plain reads of 4 to 8 MiB
# were three times as fast as of 32.
PIECE_BYTES = 2**23
_READERS, _READ_AHEAD, _PAGE = 2, 3, 4096
# What checkpoints hold that no decoder reads: transformers passes over these too.
_IGNORED = ("rotary_emb.inv_freq",)
TIED_HEAD, TIED_TABLE = "lm_head.weight", "model.embed_tokens.weight"


def load_params(
    folder: str | Path,
    abstract_params: dict[str, Any],
    shardings: dict[str, Any],
    *,
    num_layers: int,
) -> dict[str, Any]:
    """Reads a model folder straight into sharded arrays, in place: each device gets its slice, cast to our dtype.

    Host memory is a few pieces of PIECE_BYTES, whatever the size of a tensor. A process reads what its devices
    need, once: rows that are another process's are not read.

    Args:
      abstract_params: shapes and dtypes of our weights; the result has the same tree.
      shardings: where each lies; the axis of the layers is never split.

    Raises:
      Refused: tensors missing, left over, of another shape or of a dtype that is not supported, all of them
        named at once.
    """
    stored = check_stored(folder, abstract_params, num_layers=num_layers)
    shapes = flatten_dict(abstract_params)
    placed = flatten_dict(shardings)
    params = jax.jit(
        lambda: {path: jax.lax.empty(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}, out_shardings=placed
    )()
    # In the order in which they lie on the disk.
    tensors = [(stored[name], path, layer) for path in shapes for layer, name in enumerate(hf_names(path, num_layers))]
    tensors.sort(key=lambda entry: (entry[0].file, entry[0].offset))
    pieces = [
        piece
        for tensor, path, layer in tensors
        for piece in _pieces(tensor, path, layer, shapes[path].shape, placed[path])
    ]
    for piece, blocks in _read_ahead(pieces):
        write = _writer(piece.sharding.mesh, piece.sharding.spec)
        params[piece.path] = write(params[piece.path], piece.on_devices(blocks), np.array(piece.start, np.int32))
        # One piece at a time: what is under way holds memory, and the piece may lie in the buffer that it was read to.
        jax.block_until_ready(params[piece.path])
    return unflatten_dict(params)


def check_stored(folder: str | Path, abstract_params: dict[str, Any], *, num_layers: int) -> Mapping[str, StoredTensor]:
    """The tensors of a model folder, which are those of our weights; a head beside a tied table is compared with it.

    Raises:
      Refused: as `load_params`.
    """
    stored = stored_tensors(folder)
    shapes = flatten_dict(abstract_params)
    wanted = {
        name: tuple(leaf.shape[1:] if is_stacked(path) else leaf.shape)
        for path, leaf in shapes.items()
        for name in hf_names(path, num_layers)
    }
    tied = TIED_HEAD not in wanted
    surplus = [name for name in stored if name not in wanted and not name.endswith(_IGNORED)]
    surplus = [name for name in surplus if not (tied and name == TIED_HEAD)]
    misshaped = [
        f"{name} has shape {list(stored[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    foreign: dict[str, list[str]] = {}
    for name in sorted(stored):
        if stored[name].dtype not in DTYPES and not name.endswith(_IGNORED):
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
    if tied and TIED_HEAD in stored and not _equal(stored[TIED_HEAD], stored[TIED_TABLE]):
        raise Refused(
            f"{folder}: {TIED_HEAD} differs from {TIED_TABLE}, but config.json ties them; "
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
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    rows = _rows_of_a_piece(first.shape[0], first.row_bytes)
    for start in range(0, first.shape[0], rows):
        shape = min(rows, first.shape[0] - start), *first.shape[1:]
        blocks = np.empty(shape, DTYPES[first.dtype]), np.empty(shape, DTYPES[second.dtype])
        first.read_rows(start, blocks[0])
        second.read_rows(start, blocks[1])
        if not np.array_equal(blocks[0].view(np.uint8), blocks[1].view(np.uint8)):
            return False
    return True


def _rows_of_a_piece(rows: int, row_bytes: int) -> int:
    """Rows a piece, such that pieces are about equal."""
    pieces = -(-rows * row_bytes // PIECE_BYTES)
    return -(-rows // max(1, pieces))


class _Piece(NamedTuple):
    """Some rows of a tensor, the same rows of every device's own part of it.

    Attributes:
      path: of our weight that it belongs to.
      start: where it begins in a device's part: the layer, for a stacked weight, and the row.
      num_rows: of each part.
      shape: of our weight.
    """

    tensor: StoredTensor
    path: tuple[str, ...]
    start: tuple[int, ...]
    num_rows: int
    shape: tuple[int, ...]
    sharding: NamedSharding

    def _slices(self) -> dict[jax.Device, tuple[int, tuple[slice, ...]]]:
        """Of each device of this process: the first row of its part of the tensor, and the further dimensions."""
        axis = len(self.start) - 1
        indices = self.sharding.addressable_devices_indices_map(self.shape)
        return {device: (index[axis].start or 0, index[axis + 1 :]) for device, index in indices.items() if index}

    def _blocks(self) -> tuple[list[int], int]:
        """The first rows of the different parts on this process's devices, and the bytes of the rows of each."""
        return sorted({first for first, _ in self._slices().values()}), self.num_rows * self.tensor.row_bytes

    @property
    def num_bytes(self) -> int:
        """Of a buffer that holds all that `read` reads."""
        firsts, size = self._blocks()
        return len(firsts) * _aligned(size)

    def read(self, buffer: np.ndarray) -> dict[int, np.ndarray]:
        """The rows, whole, by the first row of the part: each is read once, however many devices have it."""
        firsts, size = self._blocks()
        blocks = {}
        for number, first in enumerate(firsts):
            place = buffer[number * _aligned(size) :][:size].view(DTYPES[self.tensor.dtype])
            blocks[first] = place.reshape(self.num_rows, *self.tensor.shape[1:])
            self.tensor.read_rows(first + self.start[-1], blocks[first])
        return blocks

    def on_devices(self, blocks: dict[int, np.ndarray]) -> jax.Array:
        """The piece of every device as one array, sharded as the weight is."""
        axis = len(self.start) - 1
        part = self.sharding.shard_shape(self.shape)
        copies = [size // own for size, own in zip(self.shape, part, strict=True)]
        piece = [1] * axis + [self.num_rows, *part[axis + 1 :]]
        arrays = [
            jax.device_put(blocks[first][(slice(None), *columns)].reshape(piece), device)
            for device, (first, columns) in self._slices().items()
        ]
        whole = tuple(size * count for size, count in zip(piece, copies, strict=True))
        return jax.make_array_from_single_device_arrays(whole, self.sharding, arrays)


def _pieces(
    tensor: StoredTensor, path: tuple[str, ...], layer: int, shape: tuple[int, ...], sharding: NamedSharding
) -> Iterator[_Piece]:
    axis = 1 if is_stacked(path) else 0
    part = sharding.shard_shape(shape)
    columns = int(np.prod(part[axis + 1 :], dtype=np.int64))
    row_bytes = columns * DTYPES[tensor.dtype].itemsize * len(sharding.addressable_devices)
    rows = _rows_of_a_piece(part[axis], row_bytes)
    for row in range(0, part[axis], rows):
        # The last one begins early rather than being shorter, which would be compiled anew.
        yield _Piece(tensor, path, (layer, min(row, part[axis] - rows))[1 - axis :], rows, shape, sharding)


@cache
def _writer(mesh: Mesh, spec: PartitionSpec) -> Callable[[jax.Array, jax.Array, np.ndarray], jax.Array]:
    """A function that writes a piece into a weight in place, each device into its own part."""

    def write(weight: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
        where = [*start, *[0] * (weight.ndim - len(start))]
        # As bits: XLA on CPU copies bfloat16 by way of float32, ten times as slowly.
        bits = jnp.dtype(f"uint{8 * weight.dtype.itemsize}")
        into, what = (jax.lax.bitcast_convert_type(array, bits) for array in (weight, piece.astype(weight.dtype)))
        return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(into, what, where), weight.dtype)

    everywhere = PartitionSpec()
    on_each = jax.shard_map(write, mesh=mesh, in_specs=(spec, spec, everywhere), out_specs=spec)
    return jax.jit(on_each, donate_argnums=0)


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _read_ahead(pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, dict[int, np.ndarray]]]:
    """Each piece and what was read of it, in order; other threads read a few pieces ahead.

    A piece's buffer is used again once the next is asked for: fresh memory costs a page fault every 4 KiB, and a
    CPU device takes an array that is aligned as it lies, without a copy.
    """
    size = max(piece.num_bytes for piece in pieces)
    memory = [np.empty(size + _PAGE, np.uint8) for _ in range(_READ_AHEAD + 1)]
    buffers = [block[-block.ctypes.data % _PAGE :][:size] for block in memory]
    with ThreadPoolExecutor(_READERS) as pool:
        pending: deque[tuple[_Piece, Future[dict[int, np.ndarray]]]] = deque()
        for number, piece in enumerate(pieces):
            pending.append((piece, pool.submit(piece.read, buffers[number % len(buffers)])))
            if len(pending) > _READ_AHEAD:
                yield _done(pending.popleft())
        while pending:
            yield _done(pending.popleft())


def _done(pending: tuple[_Piece, Future[dict[int, np.ndarray]]]) -> tuple[_Piece, dict[int, np.ndarray]]:
    return pending[0], pending[1].result()


def save_params(
    params: dict[str, Any],
    folder: str | Path,
    *,
    num_layers: int,
    max_shard_size: str = "5GB",
    dtype: Any = None,
    is_writer: bool = True,
) -> None:
    """Writes safetensors as Hugging Face has them: one file, or shards with an index. One tensor at a time.

    Args:
      dtype: what they are cast to; None keeps each as it is.
      is_writer: every process calls this, one writes.
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
    bits = jax.lax.bitcast_convert_type(weight, jnp.dtype(f"uint{8 * weight.dtype.itemsize}"))  # as in _writer
    tensor = jnp.copy(bits) if layer is None else jax.lax.dynamic_index_in_dim(bits, layer, keepdims=False)
    return jax.lax.bitcast_convert_type(tensor, weight.dtype).astype(dtype)


def _on_host(weight: jax.Array, layer: int | None, dtype: np.dtype) -> np.ndarray:
    """One tensor of a weight. Nothing of it stays in the weight, which np.asarray(weight) would keep as a copy."""
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
