"""The files of a model: where they are, the decoder that config.json describes, and the decoder with its weights."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from oddsmill.schemas.chat.identity import differences
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.hub import find_folder
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest
from oddsmill.schemas.typed_json import parse_json
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import DecoderConfig, config_file, parse_config, read_config
from oddsmill.train.model.names import Params
from oddsmill.train.parallel.sharding import batch_sharding, param_shardings
from oddsmill.train.weights.generation_config import stop_ids
from oddsmill.train.weights.huggingface import load_params
from oddsmill.train.weights.stored_weights import check_stored
from oddsmill.train.weights.sums import check_sums

# Never pickled weights, never code.
_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.jinja",
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
)
# The same weights once more, in another layout or for another tool.
_IGNORED = ("consolidated*.safetensors", "*/*.safetensors", "*/*.safetensors.index.json")


@dataclass(frozen=True)
class ModelFiles:
    """A model's files, with or without weights and a tokenizer.

    Attributes:
      folder: the folder that holds config.json and whatever else there is.
      hf_config: the content of config.json as it came in.
      decoder_config: the decoder as it is trained, which may be without the dropout of config.json.
    """

    folder: Path
    hf_config: dict[str, Any]
    decoder_config: DecoderConfig


def find_model(model: ModelConfig, *, files: Sequence[str] = _FILES) -> Path:
    """Returns the folder of a model with weights, downloaded where it is on the hub, or the config.json of one without.

    Args:
      files: patterns of the files to download.

    Raises:
      Refused: neither a folder nor a model that the hub or its cache has, or an exported one with altered files.
    """
    if not model.path:
        assert model.config is not None  # one of the two, by ModelConfig
        return Path(model.config)
    if Path(model.path).is_file():
        raise Refused(
            f"--model.path={model.path} is a file; give the folder that holds config.json and the safetensors"
        )
    folder = find_folder(
        model.path,
        model.revision,
        setting="model.path",
        revision_setting="model.revision",
        files=files,
        ignored=_IGNORED,
    )
    if files is _FILES:
        remedy = "Fetch or export it again (git-lfs: git lfs pull)"
        check_sums(folder, remedy=remedy, is_read=lambda name: any(fnmatch(name, pattern) for pattern in _FILES))
    return folder


def read_model_files(path: Path, *, disable_dropout: bool) -> ModelFiles:
    """Reads a model's config.json; fields that are not used and dropout that is not applied are noted on the console.

    Args:
      path: config.json, or the folder that holds it.
      disable_dropout: trains without the dropout that config.json asks for.

    Raises:
      Refused: there is no config.json, it is not supported, or generation_config.json beside it cannot be used.
    """
    hf_config, folder = read_config(path), path if path.is_dir() else path.parent
    stop_ids(folder, hf_config)  # for its refusal now, not when the trained model is exported
    decoder_config, unused = parse_config(hf_config, path=str(config_file(path)))
    if unused:
        log.info(f"{config_file(path)}: fields that are not known here and not used: {', '.join(unused)}")
    if (decoder_config.attention_dropout or decoder_config.resid_pdrop) and disable_dropout:
        log.info(f"{path}: its dropout is not applied; --disable_dropout=false applies it")
        decoder_config = dataclasses.replace(decoder_config, attention_dropout=0.0, resid_pdrop=0.0)
    return ModelFiles(folder, hf_config, decoder_config)


def check_ids(manifest: Manifest, model: ModelFiles, *, data: str) -> None:
    """Refuses rows with ids that the model lacks. Ids of their tokenizer that no row holds do not matter.

    Raises:
      Refused: as said.
    """
    size = model.decoder_config.vocab_size
    if manifest.max_token_id >= size:
        token = _token(Path(data) / TOKENIZER_FOLDER, manifest.max_token_id)
        raise Refused(
            f"{data} holds the token id {manifest.max_token_id}{token}, and the model has ids below {size} (vocab_size "
            f"in {model.folder}): preprocess with the model's own tokenizer, or give a model with a larger embedding"
        )


def _token(folder: Path, token_id: int) -> str:
    """Returns the token of an id in parentheses; nothing where the tokenizer's folder does not tell it."""
    try:
        added = parse_json((folder / "tokenizer.json").read_bytes(), finite=False)["added_tokens"]
        return next((f" ({token['content']!r})" for token in added if token["id"] == token_id), "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def check_tokenizer(manifest: Manifest, model: ModelFiles, *, data: str) -> None:
    """Refuses rows whose ids mean something else to the model.

    Raises:
      Refused: as `check_ids`, or the tokenizer in the model's folder makes other ids of the texts.
    """
    check_ids(manifest, model, data=data)
    if (model.folder / "tokenizer.json").is_file():
        different = differences(manifest, Path(data) / TOKENIZER_FOLDER, model.folder)
        if different:
            raise Refused(
                f"{data} was made with another tokenizer than that of {model.folder}; they differ in: "
                f"{', '.join(different)}. Run the preprocessing with --tokenizer={model.folder}"
            )


def load_decoder(
    folder: Path, config: DecoderConfig, mesh: Mesh, *, param_dtype: str, compute_dtype: str
) -> tuple[nnx.GraphDef, Params]:
    """Returns a decoder's definition and its weights, sharded by the table of train/parallel/sharding.py.

    This is for generation and evaluation; a run loads its weights as step/program.py lays them out.

    Args:
      config: the decoder that the folder's config.json describes.
      param_dtype: dtype in which weights are kept.
      compute_dtype: dtype of the inputs of matrix products.

    Raises:
      Refused: the weights do not fit the config or the mesh.
    """
    rows = batch_sharding(mesh)
    decoder = partial(
        Decoder,
        config,
        param_dtype=jnp.dtype(param_dtype),
        compute_dtype=jnp.dtype(compute_dtype),
        constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
    )
    definition, weights = nnx.split(nnx.eval_shape(lambda: decoder(rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    layers = config.num_hidden_layers
    check_stored(folder, shapes, num_layers=layers)
    return definition, load_params(folder, shapes, param_shardings(shapes, mesh), num_layers=layers)
