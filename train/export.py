"""The trained model as a Hugging Face folder: weights, config, tokenizer, generation config."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from schemas.manifest import TOKENIZER_FOLDER, Manifest
from train.weights import save_params


def export_model(
    folder: str | Path,
    *,
    params: dict[str, Any],
    config: dict[str, Any],
    num_layers: int,
    data: str | Path,
    manifest: Manifest,
) -> None:
    """Writes `folder` whole or not at all.

    Args:
      config: the config.json that the model came with; it goes out with the dtype of the weights and the
        ids of the tokenizer that the data was made with.
      data: the preprocessed dataset; its tokenizer files are copied.
    """
    folder = Path(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_params(params, unfinished, num_layers=num_layers)
    tokenizer = manifest.tokenizer
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    dtype = str(params["norm"]["weight"].dtype)
    # transformers 5 reads `dtype`, 4 reads `torch_dtype`: the one that came in goes out.
    dtype_name = "torch_dtype" if "torch_dtype" in config else "dtype"
    _write_json(unfinished / "config.json", {**config, **ids, dtype_name: dtype})
    _write_json(unfinished / "generation_config.json", ids)
    for file in sorted((Path(data) / TOKENIZER_FOLDER).iterdir()):
        shutil.copyfile(file, unfinished / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
