"""`report`: writes one self-contained HTML page on a dataset, from its folder alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from oddsmill.pipeline.commands.charts import bar_shares, histogram, length_bias
from oddsmill.pipeline.commands.inspect import BRANCH_STYLES
from oddsmill.pipeline.formats.pairs import Notes
from oddsmill.pipeline.output.checks import MEANINGS, STORED
from oddsmill.pipeline.output.folder import REPORT_NAME, load_manifest, publishing
from oddsmill.pipeline.output.reading import Provenance, Rejected, read_provenance, read_rejects, read_shard
from oddsmill.pipeline.resolved_run import flat
from oddsmill.pipeline.tokens.left_out import KINDS
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.console import log
from oddsmill.schemas.drops import DropReason
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.files import check_place
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, SplitSummary
from oddsmill.schemas.record import Pair, Truncated
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder, is_remote
from oddsmill.schemas.text.printable import printable
from oddsmill.schemas.text.redaction import redact_text

SIDES = tuple(BRANCH_STYLES)
_EXAMPLES_OF_A_REASON = 2
# These should be 0, or are worth a second look.
_SUSPICIOUS = (
    *("bos_not_once", "eos_inside_answer", "exact_duplicates", "identical_ids", "prompts_differ"),
    *("white_space_alone", "case_alone"),
    *(note.label for note in KINDS if note is not Notes.PAST_REASONING_NOT_RENDERED),
)


@settings()
class ReportConfig:
    """Settings of `oddsmill pipeline report OUT`."""

    dataset: str = setting("The folder of a finished dataset, on this machine or of a store such as gs://.")
    out: str | None = setting("The HTML file to write. null: report.html in the folder of the dataset.", default=None)
    num_rows: int = setting("How many rows of each split are shown.", default=2, at_least=0)


class Token(NamedTuple):
    """A token as the page shows it."""

    id: int
    text: str
    scored: bool = True


class ShownPair(NamedTuple):
    """A pair as the page shows it: its tokens by side."""

    id: str
    source: str
    truncated: list[str]
    sides: dict[str, list[Token]]


class SplitContents(NamedTuple):
    """The contents of a split that the page needs.

    Attributes:
      lengths: [pairs, 3] tokens of prompt, chosen, rejected.
      pairs_in_row: [rows].
      shown: the pairs of the first rows, row by row.
      prompt_ids: None where the provenance is not there.
    """

    lengths: np.ndarray
    pairs_in_row: np.ndarray
    shown: list[list[ShownPair]]
    prompt_ids: np.ndarray | None


def write_report(config: ReportConfig) -> None:
    """Writes the page.

    Raises:
      Refused: no dataset there, a damaged record, or the page cannot be written.
    """
    if config.out is not None:
        check_place(config.out, "out")
    manifest = load_manifest(config.dataset)
    try:
        tokenizer = load_tokenizer(fetch_folder(os.path.join(config.dataset, TOKENIZER_FOLDER)))
        contents = {name: read_split(config, manifest, name, tokenizer) for name in manifest.splits}
        page = render(config.dataset, manifest, contents)
    except (ValueError, RuntimeError) as error:
        raise Refused(f"{error}. Run oddsmill pipeline verify {config.dataset}") from error
    target = config.out or os.path.join(config.dataset, REPORT_NAME)
    with (
        publishing(target if is_remote(target) else os.path.abspath(target)) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write(page)
    log.info(f"report     {target}")


def read_split(config: ReportConfig, manifest: Manifest, name: str, tokenizer: Tokenizer) -> SplitContents:
    """Reads all rows of a split.

    Raises:
      ValueError: a record is damaged.
    """
    summary = manifest.splits[name]
    lengths, pairs_in_row = [np.zeros((0, 3), np.int64)], []
    shown: list[list[ShownPair]] = []
    lines: list[Provenance] = []
    for shard in summary.shards:
        own = read_provenance(config.dataset, shard, most_lines=summary.pairs)
        sources = iter([line.source for line in own])
        lines += own
        for row in read_shard(config.dataset, shard, manifest, max_pairs=summary.max_pairs_per_row):
            lengths.append(np.stack([row.prompt_lengths, row.chosen_lengths, row.rejected_lengths], axis=1))
            pairs_in_row.append(len(row))
            if len(shown) < config.num_rows:
                shown.append([_shown(pair, next(sources, ""), tokenizer) for pair in row.pairs()])
            else:
                sources = iter(())
    prompt_ids = np.array([line.prompt_id for line in lines], np.uint64) if len(lines) == summary.pairs else None
    return SplitContents(np.concatenate(lengths), np.array(pairs_in_row, np.int64), shown, prompt_ids)


def render(folder: str, manifest: Manifest, contents: dict[str, SplitContents]) -> str:
    """Renders the page. All that comes from the data is escaped, and turns no text around."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": lambda value: f"{value:,}", "share": lambda value: f"{value:.1%}"}
    lengths = np.concatenate([split.lengths for split in contents.values()])
    return environment.get_template("report.html").render(
        folder=redact_text(folder),
        manifest=manifest,
        splits={name: (split, contents[name]) for name, split in sorted(manifest.splits.items(), reverse=True)},
        sides=SIDES,
        tokens=sum(sum(split.tokens.values()) for split in manifest.splits.values()),
        unscored=sum(sum(split.unscored.values()) for split in manifest.splits.values()),
        rows=sum(split.rows for split in manifest.splits.values()),
        drops=_drops(folder, manifest),
        lengths={side: _lengths(lengths[:, index]) for index, side in enumerate(SIDES)},
        cut=_cut(manifest.splits),
        bias=length_bias(lengths),
        packing={name: histogram(split.pairs_in_row) for name, split in contents.items()},
        padding=_padding(manifest),
        checks=list(_checks(manifest, contents)),
        settings=flat(manifest.settings),
    )


def prompts_in_both(contents: dict[str, SplitContents]) -> int | None:
    """Counts the prompts that stand in both splits; None where the provenance does not say."""
    ids = [split.prompt_ids for split in contents.values() if split.prompt_ids is not None]
    if len(ids) < len(contents):
        return None
    return len(np.intersect1d(ids[0], ids[1])) if len(ids) == 2 else 0


def _checks(manifest: Manifest, contents: dict[str, SplitContents]) -> Iterator[tuple[str, str, int | None, bool]]:
    """Yields the name of each check, its meaning, its number (None: unknown), and True if it is worth a second look."""
    both = prompts_in_both(contents)
    yield "prompts_in_both_splits", "prompts that stand in train and in eval; by construction none", both, bool(both)
    for name in dict.fromkeys([*STORED, *MEANINGS, *manifest.counts]):
        if name in manifest.counts:
            number = manifest.counts[name]
            yield name, MEANINGS.get(name, ""), number, bool(number) and name in _SUSPICIOUS


def _drops(folder: str, manifest: Manifest) -> list[dict[str, Any]]:
    drops = manifest.ledger.drops
    examples: dict[str, list[Rejected]] = {reason: [] for reason in drops}
    missing = {reason: min(number, _EXAMPLES_OF_A_REASON) for reason, number in drops.items()}
    for reject in read_rejects(folder):
        if missing.get(reject.reason):
            examples[reject.reason].append(reject)
            missing[reject.reason] -= 1
        if not any(missing.values()):
            break
    return [
        {
            "reason": reason,
            "meaning": DropReason(reason).meaning if reason in list(DropReason) else "",
            "number": number,
            "share": number / (manifest.ledger.rows_in + manifest.ledger.extra_pairs),
            "examples": examples[reason],
        }
        for reason, number in sorted(drops.items(), key=lambda item: -item[1])
    ]


def _lengths(values: np.ndarray) -> dict[str, Any]:
    quantiles = {"median": 50, "95%": 95, "99%": 99, "longest": 100}
    numbers = {name: round(float(np.percentile(values, share))) for name, share in quantiles.items()}
    return {"bars": histogram(values), "mean": float(values.mean())} | {"numbers": numbers}


def _cut(splits: dict[str, SplitSummary]) -> dict[str, dict[str, float]]:
    return {
        name: {side: split.truncated.get(side, 0) / split.pairs if split.pairs else 0.0 for side in SIDES}
        for name, split in sorted(splits.items(), reverse=True)
    }


def _padding(manifest: Manifest) -> dict[str, list[tuple[str, float]]]:
    """Returns the shares of the row slots, by branch and padding."""
    shares = {}
    for name, split in sorted(manifest.splits.items(), reverse=True):
        slots = split.rows * manifest.row_length
        padding = slots - sum(split.tokens.values())
        shares[name] = bar_shares({**{side: split.tokens[side] for side in SIDES}, "padding": padding})
    return shares


def _shown(pair: Pair, source: str, tokenizer: Tokenizer) -> ShownPair:
    sides = {
        side: [
            Token(token_id, tokenizer.readable(token_id), number not in unscored)
            for unscored in (pair.unscored(side),)
            for number, token_id in enumerate(getattr(pair, side))
        ]
        for side in SIDES
    }
    return ShownPair(f"{pair.id:016x}", source, Truncated(pair.truncated).names(), sides)
