"""Writes a trained model as a Hugging Face folder: weights, configs, tokenizer, model card, digests."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from oddsmill.schemas.console import log
from oddsmill.schemas.files import publish_folder
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.model.names import Params
from oddsmill.train.weights.generation_config import FILE as GENERATION_CONFIG
from oddsmill.train.weights.generation_config import exported_generation_config
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.model_files import ModelFiles
from oddsmill.train.weights.peft import save_adapter
from oddsmill.train.weights.sums import write_sums
from oddsmill.train.weights.tokenizer_files import export_tokenizer, note_on_class

_CARD = "README.md"


def export_model(
    folder: str | Path,
    *,
    params: Params,
    model: ModelFiles,
    tokenizer_folder: Path,
    tokenizer: TokenizerSummary,
    card: str,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Writes `folder` whole or not at all, in place of one that is there. Every process calls this; one writes.

    config.json goes out as it came in, except for the dtype of the weights.

    Args:
      params: all weights of the model, without adapters.
      tokenizer_folder, tokenizer: the tokenizer of the rows that the model was trained on.
      card: the text of README.md.
      dtype: dtype to cast all weights to; None keeps each weight's own.

    Raises:
      OSError: the folder cannot be written.
    """
    is_writer = jax.process_index() == 0
    with _published(folder, is_writer=is_writer) as unfinished:
        if is_writer:
            written = jnp.dtype(dtype or jnp.result_type(*jax.tree.leaves(params)))
            _write_json(unfinished / "config.json", with_dtype(model.hf_config, str(written)))
            export_tokenizer(unfinished, tokenizer_folder)
            note = note_on_class(unfinished, model.hf_config.get("model_type"))
            if note:
                log.info(f"note       {note}")
                card += f"\n## Tokenizer\n\nNote that {note}.\n"
            generation = exported_generation_config(model.folder, model.hf_config, tokenizer)
            _write_json(unfinished / GENERATION_CONFIG, generation)
            (unfinished / _CARD).write_text(card, encoding="utf-8")
        save_params(
            params,
            unfinished,
            num_layers=model.decoder_config.num_hidden_layers,
            max_shard_size=max_shard_size,
            dtype=dtype,
            is_writer=is_writer,
        )


def export_adapter(
    folder: str | Path,
    *,
    params: Params,
    lora: LoraConfig,
    base_model: ModelConfig,
    num_layers: int,
    tokenizer_folder: Path,
    card: str,
) -> None:
    """Writes the adapters alone, as PEFT reads them, with tokenizer and model card. Otherwise see `export_model`.

    Args:
      params: the adapters.
      base_model: the model that PEFT loads beside them.
      num_layers: number of layers of that model.
    """
    is_writer = jax.process_index() == 0
    with _published(folder, is_writer=is_writer) as unfinished:
        if is_writer:
            export_tokenizer(unfinished, tokenizer_folder)
            (unfinished / _CARD).write_text(card, encoding="utf-8")
        save_adapter(unfinished, params, lora, num_layers=num_layers, base_model=base_model, is_writer=is_writer)


def _published(folder: str | Path, *, is_writer: bool) -> AbstractContextManager[Path]:
    return _published_with_sums(Path(folder)) if is_writer else nullcontext(Path(folder))


@contextmanager
def _published_with_sums(folder: Path) -> Iterator[Path]:
    """Publishes a folder with the digests of its files, but for those of the model card, which people write on."""
    with publish_folder(folder) as unfinished:
        yield unfinished
        files = [path for path in unfinished.rglob("*") if path.is_file() and path.name != _CARD]
        write_sums(unfinished, files)


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a config.json that names the dtype of the weights: in `dtype` (transformers 5) or `torch_dtype` (4).

    The field that came in goes out. If there was none it is the older one, which both versions and vLLM read.
    """
    names = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
    return {**config, **dict.fromkeys(names, dtype)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
