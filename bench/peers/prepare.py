"""Makes the folder of a comparison: texts that no side cuts, their tokens, packed rows, a model's config.json."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.model_shapes import Shape
from bench.peers.job import ROOT, Job
from bench.preference_texts import Row, write_jsonl
from bench.training_data import preprocess_texts, write_model_config

ENDS = 2  # BOS and EOS


def whole_rows(rows: list[Row], tokenizer: Path, *, max_length: int, count: int) -> list[Row]:
    """Returns at most `count` rows, drawn at random from those that no side cuts."""
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    random.Random(0).shuffle(rows)
    fitting = []
    for row in rows:
        lengths = [len(encode(row["prompt"] + row[side]).ids) + ENDS for side in ("chosen", "rejected")]
        if max(lengths) <= max_length and row["chosen"] != row["rejected"]:
            fitting.append(row)
        if len(fitting) == count:
            break
    return fitting


def copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Copies a tokenizer so that transformers 5 takes tokenizer.json as it is; some classes would build another one."""
    folder.mkdir(parents=True)
    shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token")}
    named["pad_token"] = named["pad_token"] or named["eos_token"]
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def stored_pairs(folder: Path) -> list[dict[str, list[int]]]:
    """Returns the tokens of every pair, in the order of the texts."""
    shown = subprocess.run(
        [sys.executable, "-m", "oddsmill.pipeline", "inspect", str(folder), "--json"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    pairs = sorted(map(json.loads, shown.splitlines()), key=lambda pair: int(pair["source"].rpartition(":")[2]))
    return [{side: pair[f"{side}_ids"] for side in ("prompt", "chosen", "rejected")} for pair in pairs]


def prepare_data(
    folder: Path, rows: list[Row], *, tokenizer: Path, max_length: int, shape: Shape, pairs_per_step: int, **more: Any
) -> Job:
    """Writes everything but the weights into `folder`, which must not exist yet, and returns the job.

    Args:
      rows: texts; their number is a multiple of `pairs_per_step`.
      more: further fields of the job.
    """
    model = folder / "model"
    copy_tokenizer(tokenizer, model)
    manifest = preprocess_texts(
        rows, folder / "data", tokenizer=str(model), max_length=max_length, texts=folder / "rows.jsonl",
        compat="trl", num_shards=1,
    )  # fmt: skip
    pairs, split = stored_pairs(folder / "data"), manifest.splits["train"]
    assert len(pairs) == len(rows) >= pairs_per_step, "a row was dropped, or there are too few"
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_model_config(model, shape, manifest.tokenizer.vocab_size)
    rows_per_step = max(1, round(pairs_per_step * split.rows / split.pairs))
    return Job(
        folder=str(folder),
        pairs_per_step=pairs_per_step,
        rows_per_step=rows_per_step,
        steps=len(rows) // pairs_per_step,
        our_steps=round(split.rows / rows_per_step),
        max_length=max_length,
        max_prompt_length=max(len(pair["prompt"]) for pair in pairs),
        max_completion_length=max(len(pair[side]) for pair in pairs for side in ("chosen", "rejected")),
        **more,
    )
