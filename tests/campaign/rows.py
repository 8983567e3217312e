"""Fuzzed rows in every kind of file, through the functions that a run calls: reading, telling the format, parsing,
rendering, tokenizing, rejects. Each row becomes pairs or a drop with its reason, wherever it stands.
"""

import contextlib
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.formats.detection import resolve_source
from oddsmill.pipeline.formats.pairs import Pair, PairIds
from oddsmill.pipeline.input.parts import Input, read_in_order
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.output.rejects import RejectBlocks
from oddsmill.pipeline.tokens.text_rules import TextRules, choose_rules
from oddsmill.pipeline.tokens.tokenization import encode_pairs, tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason, Reject
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.record import WHOLE
from tests.campaign.drawn_files import (
    BINARY_KINDS,
    KINDS,
    TABLE_KINDS,
    DrawnFile,
    Unwritable,
    damage,
    is_table,
    write_file,
)
from tests.campaign.drawn_rows import LAYOUTS, DrawnRow, draw_row, pair_of
from tests.campaign.harness import Attack, Attempt, Broken, Case
from tests.campaign.templates import write_tokenizers
from tests.pipeline.input.files import read

ROWS_A_FILE = 50


class Setup(NamedTuple):
    """The settings that the rows of a file are read with."""

    config: PreprocessConfig
    rules: TextRules
    tokenizer: Tokenizer


def draw_setup(rng: random.Random, tokenizers: dict[str, Tokenizer]) -> Setup:
    """Draws a tokenizer and the settings that have a part in what a row becomes."""
    name = rng.choice([*tokenizers])
    settings: dict[str, Any] = {"max_length": rng.choice((2, 16, 64, 300, 100_000))}
    if rng.random() < 0.25:
        settings["compat"] = "trl"
    else:
        settings |= {"chat": rng.random() < 0.3, "overlong": rng.choice(("truncate", "drop"))}
        settings |= {
            "truncation_side": rng.choice(("keep_end", "keep_start")),
            "answer_loss": rng.choice((None, "all")),
        }
        settings |= {"max_completion_length": rng.choice((None, None, 5))}
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer=name, output="o", **settings)
    return Setup(config, choose_rules(config), tokenizers[name])


def changes(config: PreprocessConfig) -> str:
    """Names the settings that are not the defaults."""
    defaults = PreprocessConfig(source=config.source, tokenizer="t", output="o")
    return ", ".join(f"{name}={value}" for name, value in vars(config).items() if value != getattr(defaults, name))


@contextlib.contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Loads the tokenizers, once for all files."""
    tokenizers = {name: load_tokenizer(path) for name, path in write_tokenizers(folder / "tokenizers").items()}

    def attempt(case: Case) -> None:
        rng = case.rng
        layout, setup = rng.choice(LAYOUTS), draw_setup(rng, tokenizers)
        share = rng.choice((0.2, 0.7, 1.0))
        rows = [draw_row(rng, layout, sound=rng.random() < share) for _ in range(ROWS_A_FILE)]
        kind = rng.choice(KINDS)
        case.did(f"{len(rows)} rows of {layout}, {share:.0%} of them sound, as {kind}; {changes(setup.config)}")
        try:
            if rng.random() < 0.2:
                try_damaged(case, folder, damage(rng, write_file(rng, kind, rows, spoils=True)), setup)
            else:
                try_rows(case, folder, kind, rows, setup)
        except Unwritable:
            case.saw("tables that Arrow cannot write")

    yield attempt


def try_damaged(case: Case, folder: Path, file: DrawnFile, setup: Setup) -> None:
    """Reads a damaged file: it is refused, or gives rows, each of which is accounted for."""
    path = folder / file.name
    path.write_bytes(file.content)
    case.did(f"damaged: {file.name}, {len(file.content):,} bytes")
    try:
        found = read(path, part_bytes=case.rng.choice((100, 5000, 1 << 25)))
        source = resolve_source(found, source=SourceConfig(path=str(path)))
    except Refused as refused:
        case.expect(bool(str(refused).strip()), "a refusal says something")
        case.saw("damaged files refused")
    else:
        become(case, found, source, setup)
        case.saw("damaged files read")
    finally:
        path.unlink()


def try_rows(case: Case, folder: Path, kind: str, rows: list[DrawnRow], setup: Setup) -> None:
    """Reads a file that is whole: every row is there, sound ones become their pairs, in any order and kind of file."""
    rng = case.rng
    if (kind in TABLE_KINDS and not is_table(rows)) or (kind in BINARY_KINDS and not _is_of_arrow(rows)):
        rows = [row._replace(pair=None) for row in rows]
    file = write_file(rng, kind, rows, spoils=any(row.pair is None for row in rows))
    found = _read(case, folder, file, part_bytes=rng.choice((100, 5000, 1 << 25)))
    if found is None:
        return
    case.expect(len(found) == len(rows), f"{len(rows)} rows were written and {len(found)} are read")
    case.expect([row.origin.row for row in found] == [*range(len(rows))], "the rows are numbered from 0")
    sound = [pair for row in rows if (pair := row.pair) is not None]
    try:
        source = resolve_source(found, source=SourceConfig(path="a"))
    except Refused as refused:
        asks = "--source.vote_values" in str(refused)  # votes of 0 and 1 alone have two meanings
        case.expect(asks or len(sound) < len(rows) / 2, f"a file of sound rows is not refused: {refused}")
        case.saw("files whose format no row tells")
        return
    outcomes = become(case, found, source, setup)
    if setup.config.compat is None and not setup.config.chat and len(sound) > 0.6 * len(rows):
        for drawn, outcome in zip(rows, outcomes, strict=True):
            if drawn.pair is not None:
                _check_sound(case, drawn, outcome, setup)
    if rng.random() < 0.3:
        _try_another_file(case, folder, rows, source, setup)


def become(case: Case, found: list[RawRow], source: SourceConfig, setup: Setup) -> list[list[Pair] | Dropped]:
    """Makes pairs and ids of rows as a run does, and checks what must hold of any; returns the pairs or drops."""
    outcomes: list[list[Pair] | Dropped] = []
    rejects = RejectBlocks(["rows"])
    for raw in found:
        case.expect(bool(raw.as_bytes()), "every row has a fingerprint")
        try:
            outcomes.append([*setup.rules.parse_row(raw, source=source)])
            case.expect(bool(outcomes[-1]), "a row gives a pair or a drop")
            case.saw("rows to pairs")
        except Dropped as dropped:
            outcomes.append(dropped)
            _reject(case, rejects, raw, dropped)
    parsed = [
        (raw, pair) for raw, pairs in zip(found, outcomes, strict=True) if isinstance(pairs, list) for pair in pairs
    ]
    ids = list(tokenize_batch([pair for _, pair in parsed], setup.tokenizer, setup.rules, setup.config))
    case.expect(len(ids) == len(parsed), "every pair becomes ids or a drop")
    for (raw, pair), made in zip(parsed, ids, strict=True):
        keys.pair_id(pair), keys.prompt_id(pair)
        if isinstance(made, Dropped):
            _reject(case, rejects, raw, made)
        else:
            case.saw("pairs to ids")
            _check_ids(case, made, setup)
    lines = [line for _, block in rejects.rest() for line in [block]]
    case.expect(len(lines) <= 1, "the rejects of a file are one block")
    return outcomes


def _reject(case: Case, rejects: RejectBlocks, raw: RawRow, dropped: Dropped) -> None:
    case.expect(dropped.reason in DropReason and bool(dropped.detail), "a drop has a reason and a detail")
    if dropped.reason == DropReason.ROW_ERROR:
        raise Broken(f"row {raw.origin.row} is an error of the program: {dropped.detail}; {raw.as_text()[:2000]}")
    rejects.add(Reject(raw.origin, dropped.reason, dropped.detail, raw.as_text()))
    case.saw(f"dropped: {dropped.reason}")


def _check_ids(case: Case, ids: PairIds, setup: Setup) -> None:
    lengths, config = ids.lengths, setup.config
    case.expect(min(lengths) > 0, "every side has a token")
    if config.compat is None:
        case.expect(lengths[0] + max(lengths[1:]) <= config.max_length, "a pair is no longer than max_length")
        if config.max_completion_length:
            case.expect(max(lengths[1:]) <= config.max_completion_length, "an answer is no longer than its limit")
    every = [*ids.prompt, *ids.chosen, *ids.rejected]
    case.expect(min(every) >= 0 and max(every) < setup.tokenizer.vocab_size, "every id is in the vocabulary")
    for answer, spans in ((ids.chosen, ids.unscored_chosen), (ids.rejected, ids.unscored_rejected)):
        scored = {*range(len(answer))} - {index for first, end in spans for index in range(first, end)}
        case.expect(bool(scored), "an answer has a scored token")


def _check_sound(case: Case, drawn: DrawnRow, outcome: list[Pair] | Dropped, setup: Setup) -> None:
    """A sound row becomes its pair, and what the model reads of it is its texts."""
    if isinstance(outcome, Dropped):
        raise Broken(f"a sound row is dropped: {outcome}; {drawn.values}")
    case.expect(
        len(outcome) == 1 and pair_of(outcome[0]) == drawn.pair, f"a sound row is its pair: {outcome} {drawn.pair}"
    )
    (ids,) = tokenize_batch(outcome, setup.tokenizer, setup.rules, setup.config)
    if isinstance(ids, Dropped) or ids.truncated != WHOLE:
        return
    (encoded,) = encode_pairs(outcome, setup.tokenizer, setup.rules, setup.config)
    texts = encoded.rendered.texts
    for answer, text in ((ids.chosen, texts.chosen), (ids.rejected, texts.rejected)):
        read_text = setup.tokenizer.decode([*ids.prompt, *answer])
        case.expect(texts.prompt + text in read_text, f"the model reads the texts: {texts}, {read_text!r}")
    case.saw("sound rows read whole")


def _try_another_file(case: Case, folder: Path, rows: list[DrawnRow], source: SourceConfig, setup: Setup) -> None:
    """The same rows in another order, in another kind of file, are the same rows and become the same."""
    rng = case.rng
    kinds = [kind for kind in KINDS if kind not in BINARY_KINDS and kind not in TABLE_KINDS]
    kinds += [*TABLE_KINDS] * is_table(rows) + [*BINARY_KINDS] * _is_of_arrow(rows)
    kind = rng.choice(kinds)
    case.did(f"the same rows in other orders as lines and as {kind}")
    summaries = []
    for each in ("rows.jsonl", kind):
        order = rng.sample(rows, len(rows))
        file = write_file(rng, each, order)
        found = _read(case, folder, file)
        if found is None:
            return
        outcomes = become(case, found, source, setup)
        summaries.append(sorted(_summary(raw, each) for raw, each in zip(found, outcomes, strict=True)))
    if summaries[0] != summaries[1]:
        one, other = next(pair for pair in zip(*summaries, strict=True) if pair[0] != pair[1])
        raise Broken(f"the same rows are others in another file: {one} {other}")
    case.saw("files written in two orders and kinds")


def _summary(raw: RawRow, outcome: list[Pair] | Dropped) -> tuple[int, str]:
    """Returns what must be the same of a row in every file: its fingerprint (of a text with a value) and its end."""
    if isinstance(outcome, Dropped) and outcome.reason == DropReason.UNREADABLE:
        return 0, str(outcome.reason)
    end = str(outcome.reason if isinstance(outcome, Dropped) else [keys.pair_id(pair) for pair in outcome])
    return keys.fingerprint(raw.as_bytes()), end


def _read(case: Case, folder: Path, file: DrawnFile, *, part_bytes: int = 1 << 25) -> list[RawRow] | None:
    """Reads a whole file as the workers do; None where it may be refused for what it holds."""
    path = folder / file.name
    path.write_bytes(file.content)
    try:
        found = read(path, part_bytes=part_bytes)
        if case.rng.random() < 0.1:
            in_order = [*read_in_order([Input(path=str(path), files=[str(path)])])]
            case.expect([row.as_bytes() for row in in_order] == [row.as_bytes() for row in found], "parts are the file")
        return found
    except Refused as refused:
        if any(reason in str(refused) for reason in MAY_BE_REFUSED):
            case.saw("whole files refused for what they hold")
            return None
        raise Broken(f"a whole file is refused: {refused}") from refused
    finally:
        path.unlink()


# Files that are whole, and that say of themselves what cannot be read: columns in place of rows, a header twice.
MAY_BE_REFUSED = ("holds columns", "more than once", "the header is one field", "several lists of rows")


def _is_of_arrow(rows: list[DrawnRow]) -> bool:
    """Tells whether Arrow holds rows as they are, but for keys that are null."""
    names = [*dict.fromkeys(name for row in rows for name in row.values)]
    try:
        columns = [pa.array([row.values.get(name) for row in rows]) for name in names]
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError):
        return False
    return bool(names) and all(
        _without_nulls(value) == _without_nulls(row.values.get(name))
        for name, column in zip(names, columns, strict=True)
        for row, value in zip(rows, column.to_pylist(), strict=True)
    )


def _without_nulls(value: Any) -> str:
    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: plain(each) for key, each in part.items() if each is not None}
        if isinstance(part, list):
            return [plain(each) for each in part]
        return int(part) if isinstance(part, float) and math.isfinite(part) and part == int(part) else part

    return json.dumps(plain(value), sort_keys=True)


ATTACK = Attack(
    f"files of {ROWS_A_FILE} rows, of every kind: each row becomes pairs or a drop, whatever it and its file hold",
    prepare=prepare,
)
