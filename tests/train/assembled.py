"""A small step, assembled as in a run and compiled for one CPU, and rows as HH has them."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from oddsmill.pipeline.tokens.packing import pack
from oddsmill.train.attention.mask import seen_blocks
from oddsmill.train.attention.xla import BLOCK
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.step.program import StepProgram, build_program

ROW_LENGTH, ROWS = 1024, 8
MODEL = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Tokens of a side, by the median and the 95th percentile of HH (harmless-base, test).
_HH = {"prompt": (94, 335), "chosen": (27, 115), "rejected": (36, 145)}


class RowFigures(NamedTuple):
    """Of rows, on average or at most.

    Attributes:
      fill: the positions that a row holds, as a share of its slots.
      max_pairs: the most pairs of a row.
      visits: the blocks of keys that a block of queries visits.
    """

    fill: float
    max_pairs: int
    visits: float


@cache
def hh_like_rows() -> RowFigures:
    """Made-up pairs of HH's lengths (lognormal, seeded) in rows as the pipeline packs them."""
    rng = np.random.default_rng(0)
    sides = {
        name: np.clip(np.exp(rng.normal(np.log(median), np.log(high / median) / 1.645, 2048)), 1, ROW_LENGTH // 4)
        for name, (median, high) in _HH.items()
    }
    prompt, chosen, rejected = (np.ceil(lengths).astype(int) for lengths in sides.values())
    tokens = prompt + chosen + rejected
    rows = pack(tokens.tolist(), row_length=ROW_LENGTH)
    positions = int(tokens.sum()) - len(tokens)  # one less than its tokens for each pair
    end = np.zeros((len(rows), ROW_LENGTH), np.int32)
    for row, pairs in zip(end, rows, strict=True):
        start = 0
        for pair in pairs:  # schemas/layout.py
            after_prompt = start + prompt[pair] - 1
            after_chosen = after_prompt + chosen[pair]
            row[start : after_chosen + rejected[pair]] = after_chosen + rejected[pair]
            row[after_prompt:after_chosen] = after_chosen
            start = after_chosen + rejected[pair]
    seen = jax.vmap(lambda row: seen_blocks(row, row, None, BLOCK))(end)
    return RowFigures(positions / end.size, max(map(len, rows)), float(seen.sum(-1).mean()))


def assembled(model: dict[str, Any] = MODEL, *, max_pairs: int = 8, **settings: Any) -> StepProgram:
    """Args: settings: of TrainConfig."""
    config = TrainConfig(data="", run_dir="", model=ModelConfig(config=json.dumps(model)), **settings)
    decoder = parse_config(model, path="test")[0]
    return build_program(
        config, decoder, model_path=Path(), max_pairs=max_pairs, row_lengths=[ROW_LENGTH], num_steps=100
    )
