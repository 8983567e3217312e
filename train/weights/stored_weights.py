"""The tensors of a model folder under the names of our weights, once it is known that they are those of our weights."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.train.model.names import Params, WeightPath, hf_names, is_stacked
from oddsmill.train.weights.safetensors_files import DTYPES, StoredTensor, listed, stored_tensors

# Tensors that checkpoints hold and no decoder reads; transformers passes over these too.
_UNUSED = ("rotary_emb.inv_freq",)
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# The names of a decoder's tensors, below whatever name a wrapper gives the decoder.
_OF_DECODER = re.compile(r"^(?P<prefix>(?:.*?\.)?)(?:embed_tokens|norm|layers\.\d+)\..+$")


class StoredWeights(NamedTuple):
    """The tensors of a folder that our weights are read from.

    Attributes:
      tensors: by the name that transformers gives them in a model for text alone.
      left_out: the names, as stored, of the tensors that no decoder has: the head of a reward model, for example.
    """

    tensors: Mapping[str, StoredTensor]
    left_out: list[str]


def find_stored(folder: str | Path, abstract_params: Params, *, num_layers: int) -> StoredWeights:
    """Returns the tensors of a model folder once it has been checked that they are those of our weights.

    Names may lack the `model.` of a model with a head, or stand below the name of a wrapper. An output head that is
    stored beside a tied embedding must equal it, and stands for it where it is stored alone.

    Raises:
      Refused: tensors missing, left over in the decoder, of another shape or of a dtype that is not supported.
    """
    shapes = flatten_dict(abstract_params)
    wanted = {
        name: tuple(leaf.shape[1:] if is_stacked(path) else leaf.shape)
        for path, leaf in shapes.items()
        for name in hf_names(path, num_layers)
    }
    tied = _HEAD not in wanted
    stored, left_out = _renamed(folder, tied=tied)
    surplus = [name for name in stored if name not in wanted and not (tied and name == _HEAD)]
    misshaped = [
        f"{stored[name].name} has shape {list(stored[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    foreign: dict[str, list[str]] = {}
    for name in sorted(stored):
        if stored[name].dtype not in DTYPES:
            foreign.setdefault(stored[name].dtype, []).append(name)
    missing = [name for name in wanted if name not in stored]
    problems = [
        f"{what} {listed(sorted(names))}"
        for what, names in (("missing", missing), ("unexpected", surplus), ("misshaped", misshaped))
        if names
    ]
    if missing == [_HEAD]:
        problems.append(
            "it is the model without its head. If the head is the embedding, set tie_word_embeddings to true in "
            "config.json; else fetch the whole model"
        )
    if problems and left_out:
        problems.append(f"beside them {listed(sorted(left_out))}, which no decoder has")
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
    return StoredWeights(stored, left_out)


def check_stored(folder: str | Path, abstract_params: Params, *, num_layers: int) -> None:
    """Checks the tensors of a model folder, and warns of those that no decoder has: they are left out.

    Raises:
      Refused: as `find_stored`.
    """
    left_out = find_stored(folder, abstract_params, num_layers=num_layers).left_out
    if left_out:
        log.warning(f"{folder}: left out, since no decoder has them: {listed(sorted(left_out))}")


def stored_dtypes(folder: Path, paths: set[WeightPath], *, num_layers: int) -> dict[WeightPath, np.dtype]:
    """Returns the dtype in which a model folder holds each of our weights; the widest, where layers differ.

    A weight that the folder lacks, or holds in a dtype that is not supported, is left out: `find_stored` reports it.
    """
    stored, _ = _renamed(folder, tied=("lm_head", "weight") not in paths)
    found = {path: {stored[name].dtype for name in hf_names(path, num_layers) if name in stored} for path in paths}
    return {
        path: jnp.result_type(*(DTYPES[name] for name in names))
        for path, names in found.items()
        if names and names <= set(DTYPES)
    }


def _renamed(folder: str | Path, *, tied: bool) -> tuple[dict[str, StoredTensor], list[str]]:
    """Returns the decoder's tensors in a folder by transformers' names, and the names of the others.

    The decoder is where the embedding is, or where the layers are if only the head is stored.
    """
    stored = stored_tensors(folder)
    prefix = _prefix_of_decoder(stored, folder)
    outer = prefix.removesuffix("model.")
    head = f"{outer if outer + _HEAD in stored else ''}lm_head."
    found: dict[str, StoredTensor] = {}
    left_out: list[str] = []
    for name, tensor in stored.items():
        if name.endswith(_UNUSED):
            continue
        if name.startswith(head):
            found[f"lm_head.{name.removeprefix(head)}"] = tensor
        elif name.startswith(prefix) if prefix else _prefix(name) == "":
            found[f"model.{name.removeprefix(prefix)}"] = tensor
        else:
            left_out.append(name)
    if tied and _HEAD in found and _EMBEDDING not in found:
        found[_EMBEDDING] = found.pop(_HEAD)
    return found, left_out


def _prefix_of_decoder(stored: Mapping[str, StoredTensor], folder: str | Path) -> str:
    """Returns what stands before `layers.0` in the stored names of the decoder: `model.` in most files.

    Raises:
      Refused: several decoders stand below wrappers.
    """
    prefixes = [prefix for prefix in dict.fromkeys(map(_prefix, stored)) if prefix is not None]
    with_embedding = [prefix for prefix in prefixes if f"{prefix}embed_tokens.weight" in stored]
    if "model." in with_embedding:
        return "model."
    if len(with_embedding) > 1:
        names = ", ".join(f"{prefix}…" for prefix in sorted(with_embedding))
        raise Refused(f"{folder} holds several decoders: {names}; store the one to train alone")
    return next(iter(with_embedding + prefixes), "model.")


def _prefix(name: str) -> str | None:
    match = _OF_DECODER.match(name)
    return match["prefix"] if match else None


def _equal(first: StoredTensor, second: StoredTensor) -> bool:
    """Compares two stored matrices bit by bit, some rows at a time."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    for start in range(0, first.shape[0], 4096):
        rows = (slice(start, min(start + 4096, first.shape[0])),)
        if first.read(rows).tobytes() != second.read(rows).tobytes():
            return False
    return True
