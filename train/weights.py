"""Hugging Face weights in and out: safetensors, one tensor at a time, no conversion but the dtype.

Our weight names are Hugging Face's with the layers stacked on a leading axis, so the whole mapping is
`layers.X` <-> `model.layers.{i}.X`.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from schemas.errors import Refused

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


def hf_names(path: tuple[str, ...], num_layers: int) -> list[str]:
    """Hugging Face names of one of our weights: one, or one a layer for a stacked weight."""
    if path[0] == "layers":
        return [f"model.layers.{layer}.{'.'.join(path[1:])}" for layer in range(num_layers)]
    return [".".join(path) if path[0] == "lm_head" else f"model.{'.'.join(path)}"]


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Which file of a model folder holds which tensor.

    Raises:
      Refused: no safetensors there, a shard of the index missing, a file that is cut short.
    """
    if (folder / INDEX_FILE).is_file():
        files = {folder / name for name in json.loads((folder / INDEX_FILE).read_text())["weight_map"].values()}
    else:
        files = {folder / SINGLE_FILE}
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise Refused(f"{folder} lacks {', '.join(missing)}: weights are read from safetensors alone")
    tensors: dict[str, Path] = {}
    for file in sorted(files):
        try:
            with safe_open(file, "numpy") as weights:
                tensors.update(dict.fromkeys(weights.keys(), file))
        except SafetensorError as error:
            raise Refused(f"{file} is damaged ({error}); fetch it again") from error
    return tensors


def load_params(
    folder: str | Path,
    abstract_params: dict[str, Any],
    shardings: dict[str, Any],
    *,
    num_layers: int,
) -> dict[str, Any]:
    """Reads a model folder straight into sharded arrays: each device gets its slice, cast to the param dtype.

    Args:
      abstract_params: shapes and dtypes of our weights; the result has the same tree.
      shardings: where each lies.

    Raises:
      Refused: tensors missing, left over or of another shape, all of them named at once.
    """
    files = _files_of_tensors(Path(folder))
    wanted = {path: hf_names(path, num_layers) for path in flatten_dict(abstract_params)}
    names = {name for tensor_names in wanted.values() for name in tensor_names}
    # A tied head is sometimes stored as well; it equals the embedding.
    problems = [f"missing {name}" for name in sorted(names - set(files))]
    problems += [f"unexpected {name}" for name in sorted(set(files) - names - {"lm_head.weight"})]
    flat_shardings = flatten_dict(shardings)

    def slices(name: str) -> Any:
        return safe_open(files[name], "numpy").get_slice(name)

    def load(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        stacked = path[0] == "layers"
        tensors = wanted[path]

        def read(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # jax passes None for scalars alone
            if not stacked:
                return slices(tensors[0])[index].astype(leaf.dtype)
            layers = tensors[index[0]]
            return np.stack([slices(name)[index[1:]].astype(leaf.dtype) for name in layers])

        return jax.make_array_from_callback(leaf.shape, flat_shardings[path], read)

    for path, leaf in flatten_dict(abstract_params).items():
        shape = tuple(leaf.shape[1:] if path[0] == "layers" else leaf.shape)
        for name in wanted[path]:
            if name in files and tuple(slices(name).get_shape()) != shape:
                problems.append(f"{name} has shape {slices(name).get_shape()}, config.json makes it {list(shape)}")
    if problems:
        raise Refused(f"{folder}: weights do not fit config.json: {'; '.join(problems)}")
    return unflatten_dict({path: load(path, leaf) for path, leaf in flatten_dict(abstract_params).items()})


def named_tensors(params: dict[str, Any], num_layers: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Every tensor under its Hugging Face name, with a function that fetches it to the host."""
    for path, leaf in flatten_dict(params).items():
        for layer, name in enumerate(hf_names(path, num_layers)):
            yield name, partial(_fetch, leaf, layer if path[0] == "layers" else None)


def _fetch(leaf: jax.Array, layer: int | None) -> np.ndarray:
    # From a fresh array: np.asarray(leaf) would keep the host copy inside the device array.
    return np.asarray(jnp.copy(leaf) if layer is None else leaf[layer])


def save_params(params: dict[str, Any], folder: str | Path, *, num_layers: int, max_shard_size: str = "5GB") -> None:
    """Writes safetensors as Hugging Face has them: one file, or shards with an index."""
    fetch = dict(named_tensors(params, num_layers))
    sizes = {}
    for path, leaf in flatten_dict(params).items():
        names = hf_names(path, num_layers)
        sizes.update(dict.fromkeys(names, leaf.nbytes // len(names)))
    plan = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for filename, names in plan.filename_to_tensors.items():
        path = Path(folder) / filename
        save_file({name: fetch[name]() for name in names}, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors makes files that only their owner can read
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (Path(folder) / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
