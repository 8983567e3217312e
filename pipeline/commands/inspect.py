"""`inspect`: shows rows of a dataset: for eyes, their tokens coloured by branch or their mask; or JSON lines."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from os.path import join
from typing import Any, NamedTuple

from rich.text import Text

from oddsmill.pipeline.commands.data_console import DataConsole
from oddsmill.pipeline.commands.inspect_mask import mask_as_json, print_mask
from oddsmill.pipeline.output.folder import load_manifest
from oddsmill.pipeline.output.reading import read_provenance, read_shard
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.layout import derive
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, Split
from oddsmill.schemas.record import Pair, Row, Truncated
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder
from oddsmill.schemas.text.printable import printable_line

ROWS_FOR_EYES = 3
# Two shades a branch, in turn, so that each token can be told from the next.
BRANCH_STYLES = {
    "prompt": ("cyan", "bright_cyan"),
    "chosen": ("green", "bright_green"),
    "rejected": ("red", "bright_red"),
}


@settings()
class InspectConfig:
    """Settings of `oddsmill pipeline inspect OUT`."""

    dataset: str = setting("The folder of a finished dataset, on this machine or of a store such as gs://.")
    split: Split | None = setting("The split to show. null: all.", default=None)
    num_rows: int | None = setting(
        "How many rows of each split are shown. null: 3, or with --json all.",
        default=None,
        at_least=1,
    )
    row: int | None = setting(
        "The number of the one row of each split that is shown, from 0. null: the first ones.", default=None, at_least=0
    )
    mask: bool = setting(
        "Which tokens of a row see which, by branches and pairs, in place of the tokens; with --json an object a row.",
        default=False,
    )
    json: bool = setting("One JSON object a pair, in stored order, on standard output.", default=False)

    def check(self) -> None:
        require(
            self.row is None or self.num_rows is None, "num_rows", self.num_rows, "--row shows one row; leave this out"
        )


class StoredRow(NamedTuple):
    """A row with its number in the split and the source of each of its pairs."""

    split: str
    number: int
    row: Row
    sources: list[str]


def inspect_dataset(config: InspectConfig) -> None:
    """Prints rows of a dataset.

    Raises:
      Refused: no dataset there, no such split, or a damaged record.
    """
    manifest = load_manifest(config.dataset)
    splits = [config.split] if config.split else list(manifest.splits)
    for split in splits:
        if split not in manifest.splits:
            raise Refused(f"--split={split}: {config.dataset} has only {', '.join(manifest.splits)}")
        if config.row is not None and config.row >= manifest.splits[split].rows:
            raise Refused(f"--row={config.row}: {split} has {manifest.splits[split].rows} rows, counted from 0")
        first = config.row or 0
        limit = config.num_rows or (None if config.json else ROWS_FOR_EYES)
        last = first + 1 if config.row is not None else limit
        rows = islice(_stored_rows(config.dataset, manifest, split), first, last)
        try:
            if config.mask:
                _print_masks(rows, as_json=config.json)
            elif config.json:
                _print_json(rows)
            else:
                _print_coloured(rows, config.dataset)
        except ValueError as error:
            raise Refused(f"{error}. Run oddsmill pipeline verify {config.dataset}") from error


def _stored_rows(folder: str, manifest: Manifest, split: str) -> Iterator[StoredRow]:
    summary, number = manifest.splits[split], 0
    for shard in summary.shards:
        sources = iter([line.source for line in read_provenance(folder, shard, most_lines=summary.pairs)])
        for row in read_shard(folder, shard, manifest, max_pairs=summary.max_pairs_per_row):
            yield StoredRow(split, number, row, list(islice(sources, len(row))))
            number += 1


def _print_json(rows: Iterator[StoredRow]) -> None:
    for stored in rows:
        for index, pair in enumerate(stored.row.pairs()):
            fields: dict[str, Any] = {
                "split": stored.split,
                "row": stored.number,
                "id": f"{pair.id:016x}",
                "source": stored.sources[index] if stored.sources else None,
                "prompt_ids": pair.prompt,
                "chosen_ids": pair.chosen,
                "rejected_ids": pair.rejected,
                "truncated": pair.truncated.names(),
            }
            if pair.unscored_chosen or pair.unscored_rejected:
                fields |= {"unscored_chosen": pair.unscored_chosen, "unscored_rejected": pair.unscored_rejected}
            sys.stdout.write(json.dumps(fields) + "\n")


def _print_masks(rows: Iterator[StoredRow], *, as_json: bool) -> None:
    console = DataConsole()
    for stored in rows:
        arrays = derive(stored.row)
        if as_json:
            fields = {"split": stored.split, "row": stored.number} | mask_as_json(arrays)
            sys.stdout.write(json.dumps(fields) + "\n")
        else:
            print_mask(f"{stored.split} row {stored.number}", arrays, console)


def _print_coloured(rows: Iterator[StoredRow], folder: str) -> None:
    tokenizer = load_tokenizer(fetch_folder(join(folder, TOKENIZER_FOLDER)))
    console = DataConsole()
    legend = Text("branches: ")
    for side, (style, _) in BRANCH_STYLES.items():
        legend.append(side, style=f"bold {style}").append("  ")
    console.print(legend.append("(shades alternate token by token; dim: without loss; ▯ padding)"))
    for stored in rows:
        padding = len(stored.row.tokens) - stored.row.num_tokens
        console.rule(f"{stored.split} row {stored.number}: {len(stored.row)} pairs, {padding} ▯", align="left")
        for index, pair in enumerate(stored.row.pairs()):
            source = f"  {printable_line(stored.sources[index])}" if stored.sources else ""
            console.print(f"pair {index + 1}  id {pair.id:016x}{source}", style="dim")
            for side in BRANCH_STYLES:
                console.print(side_text(pair, side, tokenizer))


def side_text(pair: Pair, side: str, tokenizer: Tokenizer) -> Text:
    """Returns one side of a pair, its tokens in the two shades of its branch, those without loss dimmed."""
    ids, unscored = getattr(pair, side), pair.unscored(side)
    text = Text(f"{side} {len(ids)}" + (", cut" if Truncated[side.upper()] in pair.truncated else ""))
    text.append(f", {len(unscored)} without loss: " if unscored else ": ").stylize("bold")
    for number, token_id in enumerate(ids):
        style = BRANCH_STYLES[side][number % 2]
        shown = tokenizer.readable(token_id)
        text.append(shown.replace("\n", "⏎\n  "), style=f"dim {style}" if number in unscored else style)
    return text
