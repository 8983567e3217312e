"""Answers to a few held-out prompts, before, during and after the training, to read side by side."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.files import publish_text
from oddsmill.schemas.manifest import Split
from oddsmill.schemas.record import Pair, decode_row
from oddsmill.schemas.text.printable import printable_json
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.loader import stored_rows
from oddsmill.train.generation.generate import generate
from oddsmill.train.generation.prompts import answer_text
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.monitor.sinks import explain_write_errors
from oddsmill.train.monitor.written_lines import read_samples


class Samples:
    """Writes one object a prompt and step into a file, keys `step`, `prompt`, `answer`, `chosen`. The first process
    writes; all have a part in the answers.

    The prompts are those of the first pair of the first rows of the eval split, or of the train split where
    there is no other.

    Args:
      path: the file.
      dataset: of the prompts.
      num_prompts: at most so many; 0: nothing is written.
      tokenizer: a folder; not read where there are no prompts.
      generator, decoder_config: of the decoder that answers.
    """

    def __init__(
        self,
        path: Path,
        dataset: Dataset,
        *,
        num_prompts: int,
        tokenizer: Path,
        generator: nnx.GraphDef,
        decoder_config: DecoderConfig,
        sampling: SamplingConfig,
    ):
        self._path, self._sampling = path, sampling
        self._generator, self._decoder_config = generator, decoder_config
        self._pairs: list[Pair] = []
        if num_prompts:
            split: Split = "eval" if dataset.num_rows("eval") else "train"
            rows = stored_rows(dataset.folder, dataset.manifest, split)
            records = (rows[index] for index in range(min(num_prompts, len(rows))))
            length = dataset.manifest.row_length
            self._pairs = [next(iter(decode_row(record, row_length=length).pairs())) for record in records]
            self._tokenizer = Tokenizer(tokenizer)

    def drop_after(self, step: int) -> None:
        """Removes the answers that a killed run wrote after its last checkpoint: they are generated again."""
        if self._pairs and jax.process_index() == 0:
            self._write([line for line in read_samples(self._path) if line["step"] <= step])

    def write(self, step: int, params: Any) -> list[dict[str, Any]]:
        """Answers the prompts with the weights of a step, and appends the answers to the file.

        Returns: the answers, as they stand in the file; none where another process writes it.
        """
        if not self._pairs:
            return []
        stop_ids = self._tokenizer.answer_ends
        generated = generate(
            self._generator,
            params,
            self._decoder_config,
            [pair.prompt for pair in self._pairs],
            sampling=self._sampling,
            stop_ids=sorted(stop_ids),
        )
        answers = [answer.ids for answer in generated]  # every process has a part in them

        def text(prompt: Sequence[int], answer: Sequence[int]) -> str:
            end = next((place for place, token in enumerate(answer) if token in stop_ids), None)
            return answer_text(self._tokenizer, prompt, answer[:end])

        if jax.process_index() > 0:
            return []
        written = []
        for pair, answer in zip(self._pairs, answers, strict=True):
            texts = {"answer": text(pair.prompt, answer), "chosen": text(pair.prompt, pair.chosen)}
            written.append(
                {"step": step, "prompt": self._tokenizer.decode(pair.prompt, skip_special_tokens=True), **texts}
            )
        self._write([line for line in read_samples(self._path) if line["step"] != step] + written)
        return written

    def _write(self, lines: list[dict[str, Any]]) -> None:
        with explain_write_errors(self._path):
            publish_text(self._path, "".join(printable_json(line) + "\n" for line in lines))


def side_by_side(path: Path) -> list[list[str]]:
    """Returns for each prompt the lines that show it, its first and its last answer on the console.

    Args:
      path: of a samples.jsonl.
    """
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in read_samples(path):
        by_prompt.setdefault(line["prompt"], []).append(line)
    blocks = []
    for prompt, lines in by_prompt.items():
        answers = {f"step {line['step']}": line["answer"] for line in islice(lines, 0, None, max(1, len(lines) - 1))}
        width = max(map(len, answers))
        indented = prompt.strip().replace("\n", "\n" + " " * (width + 2))
        shown = [f"{'prompt':<{width}}  {indented}"]
        shown += [f"{name:<{width}}  {answer.strip()!r}" for name, answer in answers.items()]
        blocks.append(shown)
    return blocks
