"""`plan`: estimates from a sample what lengths cost: kept, cut and dropped pairs, padding and rows by max_length."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from rich.table import Table

from oddsmill.pipeline.commands.data_console import DataConsole
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.formats.pairs import NOTE_MEANINGS, Pair
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sampling import sample_rows
from oddsmill.pipeline.output.seen import describe_not_read
from oddsmill.pipeline.resolved_run import ResolvedRun, resolve_run
from oddsmill.pipeline.tokens.encoding import Encoded
from oddsmill.pipeline.tokens.left_out import KINDS
from oddsmill.pipeline.tokens.packing import pack, pack_in_order
from oddsmill.pipeline.tokens.text_rules import TextRules
from oddsmill.pipeline.tokens.tokenization import encode_pairs
from oddsmill.pipeline.tokens.tokenizer import load_for_run
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.text.printable import printable_line

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
# Row lengths are multiples of this: the tile of the fast attention kernels.
TILE = 128
# A suggested row may be padded by so much more than the best: shorter rows cost less attention.
_SLACK = 0.02


@settings()
class PlanConfig(DatasetSettings):
    """Settings of `oddsmill pipeline plan`: those of `run`, of which output is not needed, and these."""

    sample_rows: int = setting("How many rows are looked at, spread evenly over the input.", default=2000, at_least=1)


class Prepared(NamedTuple):
    """A sample up to the length rules: the pairs that reach them, the number of the others by reason, columns not read.

    Attributes:
      not_read: in how many rows with pairs a column holds something that is not read.
    """

    pairs: list[Encoded]
    drops: Counter[str]
    not_read: Counter[str]


class Budget(NamedTuple):
    """The outcome of one max_length for the pairs of a sample.

    Attributes:
      max_prompt_length: None where the rules never cut a prompt.
      whole, cut, dropped: numbers of pairs, which add up to the sample's.
      tokens: the tokens of the pairs kept, each prompt counted once.
      padding, padding_packed: the share of row slots that hold no token, with one pair a row, and packed.
      rows_packed: rows when packed; with one pair a row there are whole + cut.
    """

    max_length: int
    max_prompt_length: int | None
    row_length: int
    whole: int
    cut: int
    dropped: int
    tokens: int
    padding: float
    padding_packed: float
    rows_packed: int


class RowLength(NamedTuple):
    """The outcome of packing pairs into rows of one length; `too_long` of them fit none."""

    row_length: int
    too_long: int
    padding: float
    rows: int


def print_plan(config: PlanConfig, console: DataConsole | None = None) -> None:
    """Prints the tables of a sample, scaled to the whole input.

    Raises:
      Refused: as `run` refuses settings and input, or no sampled row becomes a pair.
    """
    resolved = resolve_run(config)
    tokenizer = load_for_run(resolved.tokenizer_folder, config)
    sample = sample_rows(resolved.inputs, config.sample_rows)
    pairs, drops, not_read = prepare(sample.rows, tokenizer, resolved)
    if not pairs:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in drops.items()) or "there are none"
        raise Refused(f"none of the {len(sample.rows):,} sampled rows becomes a pair ({reasons})")
    rules = resolved.rules
    budgets = [
        measure(pairs, tokenizer, rules, scaled(config, length)) for length in sorted({*LENGTHS, config.max_length})
    ]
    candidates = row_lengths(pairs, tokenizer, rules, config)
    scale = sample.total_rows / len(sample.rows)
    console = console or DataConsole(soft_wrap=False)
    if not console.is_terminal:
        console.width = 140
    whole = len(sample.rows) == sample.total_rows
    size = "all of them" if whole else "spread evenly; rows and tokens are estimates for the whole input"
    console.print(f"input      {sample.total_rows:,} rows; {len(sample.rows):,} looked at, {size}", soft_wrap=True)
    for number, line in enumerate(resolved.formats):
        console.print(f"{'' if number else 'format':<10} {printable_line(line)}", soft_wrap=True)
    for line in resolved.notes:
        console.print(f"note       {printable_line(line)}", soft_wrap=True)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(drops.items())) or "none"
    console.print(f"sample     {len(pairs):,} pairs; dropped before the length rules: {dropped}", soft_wrap=True)
    if not_read:
        console.print(
            f"not read   {printable_line(describe_not_read(not_read, of=len(sample.rows)))}: no part of a pair",
            soft_wrap=True,
        )
    for note in KINDS:
        if count := sum(note in pair.rendered.notes for pair in pairs):
            console.print(f"check      {count:,} {NOTE_MEANINGS[note]}", soft_wrap=True)
    console.print(_length_table(budgets, config, scale))
    console.print(_row_table(candidates, config, scale))
    best = suggest(candidates)
    console.print(
        f"suggested  --row_length={best.row_length}: the shortest that holds every pair looked at "
        f"with little padding ({best.padding:.1%})",
        soft_wrap=True,
    )


def prepare(rows: Iterable[RawRow], tokenizer: Tokenizer, resolved: ResolvedRun) -> Prepared:
    """Parses and encodes rows, once for all lengths."""
    rules, config = resolved.rules, resolved.config
    parsed: list[Pair] = []
    drops, not_read = Counter[str](), Counter[str]()
    for row in rows:
        try:
            parsed += rules.parse_row(row, source=resolved.sources[row.origin.file], not_read=not_read)
        except Dropped as dropped:
            drops[str(dropped.reason)] += 1
    encoded = list(encode_pairs(parsed, tokenizer, rules, config))
    drops.update(str(pair.reason) for pair in encoded if isinstance(pair, Dropped))
    return Prepared([pair for pair in encoded if not isinstance(pair, Dropped)], drops, not_read)


def scaled(config: DatasetSettings, max_length: int) -> DatasetSettings:
    """Returns the settings at another max_length: max_prompt_length and row_length keep their proportion to it."""
    ratio = max_length / config.max_length
    prompt = config.max_prompt_length and max(1, round(config.max_prompt_length * ratio))
    return replace(
        config,
        max_length=max_length,
        max_prompt_length=prompt,
        row_length=None if config.row_length is None else math.ceil(config.row_length * ratio),
    )


def measure(pairs: Sequence[Encoded], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings) -> Budget:
    """Applies the length rules to encoded pairs and packs what is kept."""
    slots, cut = _kept(pairs, tokenizer, rules, config)
    packed = _packed(slots, config.slots, config)
    return Budget(
        max_length=config.max_length,
        max_prompt_length=config.prompt_floor if rules.cuts_prompts else None,
        row_length=config.slots,
        whole=len(slots) - cut,
        cut=cut,
        dropped=len(pairs) - len(slots),
        tokens=sum(slots),
        padding=1 - sum(slots) / (len(slots) * config.slots) if slots else 0.0,
        padding_packed=packed.padding,
        rows_packed=packed.rows,
    )


def row_lengths(
    pairs: Sequence[Encoded], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> list[RowLength]:
    """Packs the pairs, fitted to max_length, into rows of several lengths, ascending."""
    slots, _ = _kept(pairs, tokenizer, rules, replace(config, row_length=None))
    longest = max(slots, default=config.max_length)
    lengths = {max(config.max_length, longest), config.slots}
    lengths |= {round(config.max_length * factor) for factor in (1, 1.5, 2, 3, 4)}
    tiled = sorted({math.ceil(length / TILE) * TILE for length in lengths})
    return [_packed(slots, length, config) for length in tiled]


def suggest(candidates: Sequence[RowLength]) -> RowLength:
    """Returns the shortest that holds every pair and is padded little more than the best of them."""
    able = [candidate for candidate in candidates if not candidate.too_long]
    least = min(candidate.padding for candidate in able)
    return next(candidate for candidate in able if candidate.padding <= least + _SLACK)


def _kept(
    pairs: Sequence[Encoded], tokenizer: Tokenizer, rules: TextRules, config: DatasetSettings
) -> tuple[list[int], int]:
    """Returns the slots of each pair that is kept, and how many of these pairs are cut."""
    slots, cut = [], 0
    for pair in pairs:
        try:
            ids = rules.make_ids(pair, tokenizer, config)
        except Dropped:
            continue
        slots.append(sum(ids.lengths))
        cut += bool(ids.truncated)
    return slots, cut


def _packed(slots: Sequence[int], row_length: int, config: DatasetSettings) -> RowLength:
    fitting = [length for length in slots if length <= row_length]
    rows = len((pack if config.shuffle else pack_in_order)(fitting, row_length=row_length))
    padding = 1 - sum(fitting) / (rows * row_length) if rows else 0.0
    return RowLength(row_length, len(slots) - len(fitting), padding, rows)


def _length_table(budgets: Sequence[Budget], config: DatasetSettings, scale: float) -> Table:
    table = Table(title="per max_length (* the setting); max_prompt_length and row_length in proportion")
    headings = ("max_length", "max_prompt", "row_length", "whole", "cut", "dropped", "padding", "packed")
    for heading in (*headings, "rows", "rows packed", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for budget in budgets:
        pairs, mark = budget.whole + budget.cut + budget.dropped, "*" if budget.max_length == config.max_length else ""
        shares = (budget.whole / pairs, budget.cut / pairs, budget.dropped / pairs)
        numbers = (budget.whole + budget.cut, budget.rows_packed, budget.tokens)
        table.add_row(
            f"{mark}{budget.max_length}",
            "none" if budget.max_prompt_length is None else str(budget.max_prompt_length),
            str(budget.row_length),
            *(f"{share:.1%}" for share in (*shares, budget.padding, budget.padding_packed)),
            *(f"{round(number * scale):,}" for number in numbers),
            style="bold" if mark else None,
        )
    return table


def _row_table(candidates: Sequence[RowLength], config: DatasetSettings, scale: float) -> Table:
    table = Table(title=f"per row_length, at max_length {config.max_length}, packed")
    for heading in ("row_length", "too long for a row", "padding", "rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in candidates:
        counts = (f"{round(each.too_long * scale):,}", f"{each.padding:.1%}", f"{round(each.rows * scale):,}")
        table.add_row(str(each.row_length), *counts)
    return table
