"""How fast is preprocessing beside the tokenizer that everybody waits for, and beside a map over single rows?

Measures in turn, each in a process of its own, on the same strings and with all cores: the whole of `preprocess` with
default settings; nothing but `tokenizers.encode_batch_fast` (in threads and in processes, of which the faster counts);
and `datasets.map` with the per-row rule of TRL. Prints Markdown, medians of the rounds.

    python -m bench.preprocess [--rows 160800] [--rounds 3] [--data HH …] [--before CHECKOUT] [--file]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import preprocess_sides
from bench.many_rows import repeat, vary
from bench.preference_texts import (
    TOKENIZERS,
    Row,
    as_messages,
    hh_rows,
    rows_of_long_answers,
    rows_of_long_prompts,
    write_jsonl,
)
from bench.preprocess_sides import FEW_ROWS, MAPPED_ROWS, ROWS, TEXTS
from bench.result_page import Page, versions

ROOT = Path(__file__).parents[1]
OURS, BEFORE, MAP, OLD_ENGINE = "ours", "before", "map", "ours, tokenizer_engine=tokenizers"
FEW, START = "ours, 100 rows", "ours, 100 rows, as many"
ENCODERS = ("encode_batch_fast in threads", "encode_batch_fast in processes")
UNIGRAM = "unigram"
LONGER = 0.15  # long texts have as many tokens in fewer rows


@dataclass(frozen=True)
class Case:
    """Rows and a tokenizer.

    Attributes:
      rows: the dataset, as it is.
      share: how many rows of it are run, as a share of `--rows`.
      few: one of how many rows the tokenizer alone encodes, whose speed is the same for any number of rows.
      chat: the rows become dialogues, and the tokenizer's chat template writes them.
      copies: the rows come again and again as they are.
      sides: what is measured beside `ours` and the tokenizer alone.
    """

    name: str
    rows: Callable[[], list[Row]]
    tokenizer: str = "qwen2"
    share: float = 1.0
    few: int = 8
    chat: bool = False
    copies: bool = False
    sides: tuple[str, ...] = (MAP,)

    def draw(self, count: int) -> list[Any]:
        """Returns the rows that are run where `count` of HH are."""
        rows = (repeat if self.copies else vary)(self.rows(), round(count * self.share))
        return [as_messages(row) for row in rows] if self.chat else list(rows)


CASES = (
    Case("HH", hh_rows, sides=(MAP, FEW, START)),
    Case("long answers", rows_of_long_answers, share=LONGER, few=16),
    Case("long prompts", rows_of_long_prompts, share=LONGER, few=24),
    Case("chat", hh_rows, chat=True),
    Case("chat, long answers", rows_of_long_answers, share=LONGER, few=16, chat=True, sides=()),
    Case("chat, llama-3", hh_rows, tokenizer="llama-3", chat=True, sides=()),
    Case("HH, phi-3-mini", hh_rows, tokenizer="phi-3-mini", sides=()),
    Case("HH, copies", hh_rows, copies=True, sides=()),
    Case("HH, Unigram", hh_rows, tokenizer=UNIGRAM, share=0.1, few=4, sides=(OLD_ENGINE,)),
)


def strings(row: dict[str, Any], render: Callable[..., str]) -> tuple[str, str, str]:
    """Returns the texts that a row's ids are those of: the prompt, and the prompt with each answer."""
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    if isinstance(prompt, str):
        return prompt, prompt + chosen, prompt + rejected
    return render(prompt, add_generation_prompt=True), render(prompt + chosen), render(prompt + rejected)


def write_unigram(folder: Path) -> Path:
    """Trains a Unigram tokenizer of 16,000 tokens on the long answers; returns its folder."""
    import tokenizers

    model = tokenizers.SentencePieceUnigramTokenizer()
    texts = [row[side] for row in rows_of_long_answers() for side in ("prompt", "chosen", "rejected")]
    model.train_from_iterator(texts, vocab_size=16_000, show_progress=False, special_tokens=["<unk>", "</s>"], unk_token="<unk>")  # fmt: skip  # noqa: E501
    target = folder / UNIGRAM
    target.mkdir()
    model.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}))
    return target


class Measured:
    """The rows of a case on disk, and what its sides took.

    Attributes:
      pairs: how many rows each side ran on.
      found: what `preprocess_sides.timed` returned, by side, of each round.
    """

    def __init__(self, case: Case, folder: Path, count: int, sides: tuple[str, ...]):
        self.case, self._folder = case, folder
        self.sides = (OURS, *ENCODERS, *sides)
        self.tokenizer = folder.parent / UNIGRAM if case.tokenizer == UNIGRAM else TOKENIZERS / case.tokenizer
        rows = case.draw(count)
        few, mapped = rows[:: case.few], rows[:: 3 * case.few]
        self.pairs = defaultdict(
            lambda: len(rows), {FEW: 100, START: 100, MAP: len(mapped)} | dict.fromkeys(ENCODERS, len(few))
        )
        render = preprocess_sides.Renderer(str(self.tokenizer))
        texts = [text for row in few for text in strings(row, render)]
        folder.mkdir()
        for name, lines in ((ROWS, rows), (FEW_ROWS, rows[:100]), (MAPPED_ROWS, mapped), (TEXTS, texts)):
            write_jsonl(folder / name, lines)
        self.found: dict[str, list[preprocess_sides.Measured]] = defaultdict(list)

    def run(self, side: str, before: str | None) -> None:
        command = [sys.executable, "-P", preprocess_sides.__file__, side, str(self._folder), str(self.tokenizer)]
        environment = os.environ | {"PYTHONPATH": str(before if side == BEFORE else ROOT)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1200)
        if ran.returncode:
            sys.exit(f"{side} of {self.case.name} failed:\n{ran.stderr}")
        self.found[side].append(json.loads(ran.stdout.splitlines()[-1]))

    def seconds(self, side: str) -> float:
        return median(found["seconds"] for found in self.found[side])

    def rate(self, side: str) -> float:
        """Returns pairs a second."""
        return self.pairs[side] / self.seconds(side)

    def limit(self) -> float:
        """Returns the pairs a second of the tokenizer alone, in threads or in processes."""
        return max(self.rate(side) for side in ENCODERS)

    def cpu_us(self, side: str, *parts: str) -> float:
        """Returns the CPU microseconds a pair: `main_cpu`, `children_cpu` or both."""
        return 1e6 * median(sum(found[part] for part in parts) for found in self.found[side]) / self.pairs[side]


def chosen_cases(names: Sequence[str] | None) -> Iterator[Case]:
    yield from (case for case in CASES if names is None or case.name in names)


def measure(arguments: argparse.Namespace) -> list[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        write_unigram(Path(folder))
        extra = (BEFORE,) if arguments.before else ()
        cases = [
            Measured(case, Path(folder, f"case{number}"), arguments.rows, case.sides + extra)
            for number, case in enumerate(chosen_cases(arguments.data))
        ]
        for round_number in range(arguments.rounds):
            for case in cases:  # in turn, so that a change of the machine's pace meets all sides
                turn = round_number % len(case.sides)
                for side in case.sides[turn:] + case.sides[:turn]:
                    case.run(side, arguments.before)
    return cases


def say_rates(page: Page, cases: list[Measured]) -> None:
    page.head("data", "tokenizer", "engine", "pairs", "ours, pairs/s", "encode_batch_fast", "map of rows", "ours / encode_batch_fast", "ours / map", "CPU us a pair", "before, pairs/s", "ours / before")  # fmt: skip  # noqa: E501
    for case in cases:
        ours = case.rate(OURS)
        mapped = case.rate(MAP) if MAP in case.found else None
        before = case.rate(BEFORE) if BEFORE in case.found else None
        page.row(
            case.case.name,
            case.tokenizer.name,
            case.found[OURS][0]["engine"],
            f"{case.pairs[OURS]:,}",
            f"{ours:,.0f}",
            f"{case.limit():,.0f}",
            f"{mapped:,.0f}" if mapped else "",
            f"**{ours / case.limit():.2f}**",
            f"{ours / mapped:.1f}" if mapped else "",
            f"{case.cpu_us(OURS, 'main_cpu', 'children_cpu'):.0f}",
            f"{before:,.0f}" if before else "",
            f"{ours / before:.2f}" if before else "",
        )


def main(arguments: argparse.Namespace) -> None:
    page = Page("Preprocessing beside the tokenizer alone", what="preprocess", module="bench.preprocess")
    page.say(f"{versions(['apache-beam', 'datasets', 'tokenizers'])}; medians of {arguments.rounds} rounds.\n")
    cases = measure(arguments)
    say_rates(page, cases)
    for case in cases:
        if START in case.found:
            page.say(
                f"\nA run of 100 rows takes {case.seconds(FEW):.1f} s. With engine and processes of a large run it "
                f"is {case.seconds(START):.1f} s, which are in all figures of ours above."
            )
        if OLD_ENGINE in case.found:
            ratio = case.rate(OURS) / case.rate(OLD_ENGINE)
            page.say(f"\n{case.case.name}: {ratio:.2f} of the pairs/s of `--tokenizer_engine=tokenizers`.")
    if arguments.file:
        page.file()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=160_800,
        help="rows of HH, as many as HH-RLHF has; there are fewer of the longer ones",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    parser.add_argument("--data", nargs="+", choices=[case.name for case in CASES], help="all where it is left out")
    parser.add_argument("--before", help="another checkout, whose pipeline is measured too")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    main(parser.parse_args())
