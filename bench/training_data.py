"""Makes the input of a training run from the benchmarks' texts: a preprocessed dataset, and a model's config.json."""

import json
from pathlib import Path
from typing import Any

from bench.model_shapes import Shape
from bench.preference_texts import Row, write_jsonl
from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.schemas.manifest import Manifest


def preprocess_texts(
    rows: list[Row], output: Path, *, tokenizer: str, max_length: int, texts: Path, **settings: Any
) -> Manifest:
    """Writes `rows` to the file `texts` and the dataset to `output`, without an eval split or a limit of prompts alone.

    Args:
      settings: further settings of PreprocessConfig.
    """
    write_jsonl(texts, rows)
    if settings.get("compat") is None:
        settings["max_prompt_length"] = max_length
    config = PreprocessConfig(
        source=SourceConfig(path=str(texts), format="triple"),
        tokenizer=tokenizer,
        output=str(output),
        max_length=max_length,
        eval_share=0,
        **settings,
    )
    return preprocess(config)


def write_model_config(folder: Path, shape: Shape, vocab_size: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**shape, "vocab_size": vocab_size}, indent=2))
    return path
