"""The description of a model: its folder, its config.json as it came in, and the decoder that this makes."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, file_sha256
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.model.hf_config import DecoderConfig, config_file, parse_config, read_config
from oddsmill.train.weights.hub import find_model


@dataclass(frozen=True)
class ModelFiles:
    """A model's files, with or without weights and a tokenizer.

    Attributes:
      folder: holds config.json and whatever else there is.
      hf_config: config.json as it came in.
      decoder_config: as it is trained, which may be without its dropout.
    """

    folder: Path
    hf_config: dict[str, Any]
    decoder_config: DecoderConfig


def find_model_path(model: ModelConfig) -> Path:
    """Returns the folder of a model with weights, or the config.json of one without.

    Raises:
      Refused: there is no such folder, and no such model on the hub.
    """
    if model.path:
        return find_model(model.path, model.revision)
    assert model.config is not None  # one of the two, by ModelConfig
    return Path(model.config)


def read_model_files(path: Path, *, disable_dropout: bool) -> ModelFiles:
    """Reads a model's config.json; fields that are not used and dropout that is not applied are noted on the console.

    Args:
      path: config.json, or the folder that holds it.
      disable_dropout: trains without the dropout that config.json asks for.

    Raises:
      Refused: there is no config.json, or it is not supported.
    """
    hf_config = read_config(path)
    decoder_config, unused = parse_config(hf_config, path=str(config_file(path)))
    if unused:
        log.info(f"{config_file(path)}: fields that are not known here and not used: {', '.join(unused)}")
    if (decoder_config.attention_dropout or decoder_config.resid_pdrop) and disable_dropout:
        log.info(f"{path}: its dropout is not applied; --disable_dropout=false applies it")
        decoder_config = dataclasses.replace(decoder_config, attention_dropout=0.0, resid_pdrop=0.0)
    return ModelFiles(path if path.is_dir() else path.parent, hf_config, decoder_config)


def check_tokenizer(manifest: Manifest, model: ModelFiles, *, data: str) -> None:
    """Refuses rows whose ids mean something else to the model.

    Raises:
      Refused: the vocabulary is larger than the model's, or the model's folder has another tokenizer.json.
    """
    if manifest.tokenizer.vocab_size > model.decoder_config.vocab_size:
        raise Refused(
            f"{data} was made with a vocabulary of {manifest.tokenizer.vocab_size}, the model has "
            f"{model.decoder_config.vocab_size} (vocab_size in {model.folder}): preprocess with the model's own "
            "tokenizer"
        )
    tokenizer = model.folder / "tokenizer.json"
    if tokenizer.is_file() and file_sha256(tokenizer) != manifest.tokenizer.sha256["tokenizer.json"]:
        raise Refused(
            f"{data} was made with another tokenizer than {tokenizer}: run the preprocessing with "
            f"--tokenizer={model.folder}"
        )
