"""The trained model as a Hugging Face folder: weights, config, tokenizer, generation config, model card."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, TokenizerSummary
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.setup import Run
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.model_card import model_card
from oddsmill.train.weights.peft import save_adapter
from oddsmill.train.weights.whole_folder import whole_folder

# Those that a preprocessed dataset has no use for; tokenizer.json says the same, but some tools read them.
_FURTHER_TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "tokenizer.model", "vocab.json")


def export_model(
    folder: str | Path,
    *,
    params: dict[str, Any],
    config: TrainConfig,
    run: Run,
    step: int,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Writes `folder` whole or not at all, in place of one that stands there. Every process calls it, one writes.

    config.json goes out as it came in, but for the dtype of the weights where that is another.

    Args:
      params: all weights of the model, without adapters.
      step: after which the weights are what they are.
      dtype: what weights are cast to; None leaves each as it is.

    Raises:
      RunFailed: it cannot be written.
    """
    with whole_folder(folder, is_writer=run.is_writer, what_to_do=_what_to_do(config)) as unfinished:
        if run.is_writer:
            written = jnp.dtype(dtype or jnp.result_type(*jax.tree.leaves(params)))
            _write_json(unfinished / "config.json", with_dtype(run.hf_config, str(written)))
            _write_tokenizer(unfinished, Path(config.data) / TOKENIZER_FOLDER, run.model_folder)
            generation = generation_config(run.model_folder, run.hf_config, run.manifest.tokenizer)
            _write_json(unfinished / "generation_config.json", generation)
            card = model_card(config, run.manifest, run.eval_manifest, run.decoder_config, step=step)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
        save_params(
            params,
            unfinished,
            num_layers=run.decoder_config.num_hidden_layers,
            max_shard_size=max_shard_size,
            dtype=dtype,
            is_writer=run.is_writer,
        )


def export_adapter(folder: str | Path, *, params: dict[str, Any], config: TrainConfig, run: Run, step: int) -> None:
    """As `export_model`, but the adapters alone, as PEFT has them, with tokenizer and model card.

    Args:
      params: the adapters.
    """
    assert config.lora is not None
    with whole_folder(folder, is_writer=run.is_writer, what_to_do=_what_to_do(config)) as unfinished:
        if run.is_writer:
            _write_tokenizer(unfinished, Path(config.data) / TOKENIZER_FOLDER, run.model_folder)
            card = model_card(config, run.manifest, run.eval_manifest, run.decoder_config, step=step, adapter=True)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
        save_adapter(
            unfinished,
            params,
            config.lora,
            num_layers=run.decoder_config.num_hidden_layers,
            base_model=config.model,
            is_writer=run.is_writer,
        )


def _what_to_do(config: TrainConfig) -> str:
    return (
        "The checkpoint is there: make room or give another folder, then "
        f"oddsmill train export --run_dir={config.run_dir} --out=FOLDER"
    )


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json that says what the weights are: `dtype` is transformers 5's field, `torch_dtype` that of 4.

    The one that came in goes out. Where there was none it is the older, which both read, and vLLM too.
    """
    names = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
    return {**config, **dict.fromkeys(names, dtype)}


def generation_config(folder: Path, config: dict[str, Any], tokenizer: TokenizerSummary) -> dict[str, Any]:
    """The model's own generation_config.json, or the ids of its config.json and, where it has none, of the tokenizer.

    The token that ended the answers of the training is always among those that end a generation.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise Refused(f"{path} cannot be read as a JSON object ({error}); correct or remove it") from error
    else:
        own = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        ids = {f"{name}_token_id": (config.get(f"{name}_token_id"), known) for name, known in own.items()}
        content = {name: known if given is None else given for name, (given, known) in ids.items()}
        content = {name: value for name, value in content.items() if value is not None}
    ends = content.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if tokenizer.eos_id not in ends:
        content["eos_token_id"] = [*ends, tokenizer.eos_id] if ends else tokenizer.eos_id
    return content


def _write_tokenizer(folder: Path, of_data: Path, model_folder: Path) -> None:
    """The tokenizer and the chat template that the data was made with: those of the model, or one that was given."""
    shutil.copytree(of_data, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    if (model_folder / "tokenizer.json").is_file():  # the same as the data's: train/setup.py
        for name in _FURTHER_TOKENIZER_FILES:
            if (model_folder / name).is_file():
                shutil.copyfile(model_folder / name, folder / name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
