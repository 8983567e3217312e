"""The texts of the benchmarks: rows of `prompt`, `chosen` and `rejected`, from data that is not ours to ship.

This module imports only Python's own library, because the measured processes and the peers' environments read it too.
"""

import gzip
import json
import os
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(os.environ.get("ODDSMILL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
HH = SHARED / "data/hh-rlhf-harmless/test.rows0-1599.jsonl.gz"
LONG_ANSWERS = SHARED / "data/llamafactory-dpo-demo/dpo_en_demo.json.gz"
LONG_PROMPTS = SHARED / "data/finegrained-qa-feedback/dev_feedback.json.gz"
TOKENIZERS = SHARED / "data/tokenizers"

Row = dict[str, str]


@dataclass(frozen=True)
class Texts:
    """A dataset of the training benchmarks.

    Attributes:
      rows: a function that reads the dataset.
      max_length: tokens of prompt and answer together.
    """

    name: str
    rows: Callable[[], list[Row]]
    max_length: int


def hh_rows() -> list[Row]:
    rows = []
    for line in gzip.decompress(HH.read_bytes()).splitlines():
        row = json.loads(line)
        end = row["chosen"].rfind("\n\nAssistant:") + len("\n\nAssistant:")
        rows.append({"prompt": row["chosen"][:end], "chosen": row["chosen"][end:], "rejected": row["rejected"][end:]})
    return [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]


def rows_of_long_answers() -> list[Row]:
    rows = []
    for row in json.loads(gzip.decompress(LONG_ANSWERS.read_bytes())):
        prompt = "".join(f"\n\n{turn['from']}: {turn['value']}" for turn in row["conversations"]) + "\n\ngpt: "
        rows.append({"prompt": prompt, "chosen": row["chosen"]["value"], "rejected": row["rejected"]["value"]})
    return rows


def rows_of_long_prompts() -> list[Row]:
    rows = json.loads(gzip.decompress(LONG_PROMPTS.read_bytes()))
    prompts = ["\n\n".join(" ".join(text) for text in [*row["passages"], [row["question"]]]) + "\n\n" for row in rows]
    return [
        {"prompt": prompt, "chosen": row["prediction 1"], "rejected": row["prediction 2"]}
        for prompt, row in zip(prompts, rows, strict=True)
        if row["prediction 1"].strip() != row["prediction 2"].strip()
    ]


_SPEAKERS = {"Human": "user", "human": "user", "Assistant": "assistant", "gpt": "assistant", "system": "system"}
_SPEAKER = re.compile(rf"(?:^|\n\n)({'|'.join(_SPEAKERS)}):(?: |$)")


def as_messages(row: Row) -> dict[str, list[dict[str, str]]]:
    """Makes a dialogue of a row of HH or of the long answers, whose prompt ends where the assistant's turn begins."""
    parts = _SPEAKER.split(row["prompt"])[1:-2]  # without what is before the first speaker, and the open turn
    turns = zip(parts[::2], parts[1::2], strict=True)
    prompt = [{"role": _SPEAKERS[speaker], "content": text} for speaker, text in turns]
    answers = {side: [{"role": "assistant", "content": row[side].strip()}] for side in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


# Lengths of UltraFeedback's sides in tokens: median, and the spread of their logarithm (95th percentiles of 602, 926
# and 786).
ULTRAFEEDBACK_LENGTHS = {"prompt": (99, 1.10), "chosen": (318, 0.65), "rejected": (270, 0.65)}
TOKENS_A_WORD = 1.35


def ultrafeedback_like_rows(count: int, *, max_tokens: int, scale: float = 1.0) -> list[Row]:
    """Returns rows of words from the long answers, with lognormal lengths like those of UltraFeedback.

    Args:
      max_tokens: limit of prompt and answer together; a longer pair is drawn again.
      scale: factor of all lengths.
    """
    draw = random.Random(0)
    words = " ".join(row["chosen"] + " " + row["rejected"] for row in rows_of_long_answers()).split()
    rows: list[Row] = []
    while len(rows) < count:
        tokens = {
            side: draw.lognormvariate(0, s) * median * scale for side, (median, s) in ULTRAFEEDBACK_LENGTHS.items()
        }
        if tokens["prompt"] + max(tokens["chosen"], tokens["rejected"]) > max_tokens:
            continue
        row = {}
        for side, number in tokens.items():
            start, size = draw.randrange(len(words)), max(4, round(number / TOKENS_A_WORD))
            row[side] = " " * (side != "prompt") + " ".join((words[start:] + words)[:size])
        rows.append(row)
    return rows


TEXTS = {
    "hh": Texts("HH", hh_rows, max_length=512),
    "long": Texts("long answers", rows_of_long_answers, max_length=1024),
}


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
