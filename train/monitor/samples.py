"""Answers to a few held-out prompts, before, during and after the training, to read side by side."""

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.manifest import TOKENIZER_FOLDER
from oddsmill.schemas.record import Pair, decode_row
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import num_rows, stored_rows
from oddsmill.train.generation.generate import generate
from oddsmill.train.generation.prompts import answer_text
from oddsmill.train.setup import Run

SAMPLES_NAME = "samples.jsonl"


class Samples:
    """Writes `run_dir/samples.jsonl`: one object a prompt and step, keys `step`, `prompt`, `answer`, `chosen`.

    The prompts are those of the first pair of the first rows of the eval split, or of the train split where
    there is no other.
    """

    def __init__(self, config: TrainConfig, run: Run):
        self._config, self._run = config, run
        self._path = Path(config.run_dir) / SAMPLES_NAME
        self._pairs: list[Pair] = []
        if config.generation_num_prompts:
            split = "eval" if num_rows(run.eval_manifest, "eval") else "train"
            rows = stored_rows(run.eval_data, run.eval_manifest, split)
            count = min(config.generation_num_prompts, len(rows))
            self._pairs = [next(iter(decode_row(rows[index]).pairs())) for index in range(count)]
            self._tokenizer = Tokenizer(Path(config.data) / TOKENIZER_FOLDER)

    def drop_after(self, step: int) -> None:
        """Removes what a killed run wrote after its last checkpoint: it is generated again."""
        if self._pairs and self._run.is_writer:
            self._write([line for line in read_samples(self._config.run_dir) if line["step"] <= step])

    def write(self, step: int, params: Any) -> list[dict[str, Any]]:
        """Answers the prompts with the weights of a step, and appends the answers to the file.

        Returns: the answers, as they stand in the file; none where another process writes it.
        """
        if not self._pairs:
            return []
        generated = generate(
            self._run.generator,
            params,
            self._run.decoder_config,
            [pair.prompt for pair in self._pairs],
            sampling=self._config.sampling,
            stop_ids=sorted(self._tokenizer.answer_ends),
        )
        answers = [answer.ids for answer in generated]  # every process has a part in them
        stop_ids = self._tokenizer.answer_ends

        def text(prompt: Sequence[int], answer: Sequence[int]) -> str:
            end = next((place for place, token in enumerate(answer) if token in stop_ids), None)
            return answer_text(self._tokenizer, prompt, answer[:end])

        if not self._run.is_writer:
            return []
        written = []
        for pair, answer in zip(self._pairs, answers, strict=True):
            texts = {"answer": text(pair.prompt, answer), "chosen": text(pair.prompt, pair.chosen)}
            written.append(
                {"step": step, "prompt": self._tokenizer.decode(pair.prompt, skip_special_tokens=True), **texts}
            )
        self._write([line for line in read_samples(self._config.run_dir) if line["step"] != step] + written)
        return written

    def _write(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, self._path)


def read_samples(run_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's samples.jsonl; none where there is no such file."""
    path = Path(run_dir) / SAMPLES_NAME
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def side_by_side(run_dir: str | Path) -> str:
    """The first and the last answer to each prompt, as text for the console; empty where there are no samples."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in read_samples(run_dir):
        by_prompt.setdefault(line["prompt"], []).append(line)
    blocks = []
    for prompt, lines in by_prompt.items():
        answers = {f"step {line['step']}": line["answer"] for line in islice(lines, 0, None, max(1, len(lines) - 1))}
        width = max(map(len, answers))
        indented = prompt.strip().replace("\n", "\n" + " " * (width + 2))
        shown = [f"{'prompt':<{width}}  {indented}"]
        shown += [f"{name:<{width}}  {answer.strip()!r}" for name, answer in answers.items()]
        blocks.append("\n".join(shown))
    return "\n\n".join(blocks)
