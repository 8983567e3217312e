"""Whole runs over fuzzed files: every row is accounted for once, `verify` passes, the same rows give the same bytes in
another order and other files, "nothing changed" is said of what did not change and of nothing else.
"""

import contextlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.pipeline.commands.verify import VerifyConfig, verify_dataset
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest
from tests.campaign.drawn_files import BINARY_KINDS, TABLE_KINDS, Unwritable, write_file
from tests.campaign.drawn_rows import LAYOUTS, DrawnRow, draw_row
from tests.campaign.harness import Attack, Attempt, Case
from tests.campaign.templates import write_tokenizers
from tests.pipeline.conftest import messages

JSON_KINDS = ("rows.jsonl", "array.json", "pretty.json")


@contextlib.contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Writes the tokenizers."""
    tokenizers = write_tokenizers(folder / "tokenizers")

    def attempt(case: Case) -> None:
        home = folder / str(case.seed)
        home.mkdir()
        try:
            try_run(case, home, str(tokenizers[case.rng.choice([*tokenizers])]))
        except Unwritable:
            case.saw("tables that Arrow cannot write")
        finally:
            shutil.rmtree(home)

    yield attempt


def try_run(case: Case, home: Path, tokenizer: str) -> None:
    """Runs stage one over files of drawn rows, and again over the same rows."""
    rng = case.rng
    layout, share = rng.choice(LAYOUTS), rng.choice((0.6, 0.9))
    rows = [draw_row(rng, layout, sound=rng.random() < share) for _ in range(rng.choice((20, 60, 300)))]
    kinds = rng.choice((JSON_KINDS, JSON_KINDS, (*JSON_KINDS, *TABLE_KINDS, *BINARY_KINDS)))
    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "max_length": rng.choice((64, 1000)),
        "dedup": rng.choice(("exact", "none")),
        "packing": rng.random() < 0.7,
        "max_drop_share": 1.0,
        "eval_share": rng.choice((0.0, 0.3)),
        "num_shards": rng.choice((1, 4)),
        "seed": rng.randrange(5),
        "compat": rng.choice((None, None, "trl")),
    }
    case.did(f"{len(rows)} rows of {layout}, {share:.0%} sound, in {', '.join(kinds)}; {settings}")
    counts = _write_files(rng, home / "in", kinds, rows)
    try:
        manifest, _ = _run(home, "in", "out", settings)
    except Refused as refused:
        is_read = share == 0.9 and kinds is JSON_KINDS and settings["compat"] is None
        case.expect(not is_read, f"rows of which most are sound are not refused: {refused}")
        case.expect(not (home / "out" / "manifest.json").exists(), "a refused run leaves no manifest")
        case.saw("runs refused")
        return
    _check_accounts(case, home / "out", manifest, counts)
    verify_dataset(VerifyConfig(dataset=str(home / "out")))
    again, lines = _run(home, "in", "out", settings)
    case.expect(again == manifest and any("nothing changed" in line for line in lines), "nothing changed")
    if kinds is JSON_KINDS:
        _write_files(rng, home / "other", kinds, rng.sample(rows, len(rows)))
        try:
            other, _ = _run(home, "other", "other-out", settings)
        except Refused as refused:
            case.expect(share < 0.9, f"most rows are sound: {refused}")
            return
        # How a file of odd rows is read is told by its own rows: in other files they may tell otherwise.
        source = manifest.settings["source"]
        if other.settings["source"] == source and not isinstance(source, list):
            # Its digest leaves out the engine: which is worth loading depends on the size of the files.
            same = other.sha256 == manifest.sha256
            case.expect(same, f"the same rows give the same manifest: {_differences(manifest, other)}")
            case.saw("runs over the same rows in other files")
    _change(rng, home / "in")
    try:
        _, lines = _run(home, "in", "out", settings)
    except Refused:
        lines = []
    case.expect(not any("nothing changed" in line for line in lines), "an input that changed is noticed")
    case.saw("runs")


def _write_files(rng: random.Random, folder: Path, kinds: tuple[str, ...], rows: list[DrawnRow]) -> Counter[str]:
    """Divides rows among one to three files; returns how many each has."""
    folder.mkdir()
    # Of a few rows a file tells nothing where these are altered.
    cuts = sorted(rng.sample(range(8, len(rows) - 7, 8), min(rng.randrange(3), len(range(8, len(rows) - 7, 8)))))
    counts = Counter[str]()
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        if stop - start:
            file = write_file(rng, rng.choice(kinds), rows[start:stop])
            path = folder / f"{number}-{file.name}"
            path.write_bytes(file.content)
            counts[str(path)] = stop - start
    return counts


def _run(home: Path, inputs: str, output: str, settings: dict[str, Any]) -> tuple[Manifest, list[str]]:
    config = PreprocessConfig(source=SourceConfig(path=f"{home / inputs}/*"), output=str(home / output), **settings)
    with messages() as lines:
        return preprocess(config), lines


def _check_accounts(case: Case, out: Path, manifest: Manifest, counts: Counter[str]) -> None:
    """Holds the ledger, rejects/ and provenance/ against the rows that were written: each is in one of them."""
    ledger = manifest.ledger
    case.expect(
        ledger.rows_in == counts.total(), f"{counts.total()} rows were written, the ledger has {ledger.rows_in}"
    )
    pairs = sum(split.pairs for split in manifest.splits.values())
    case.expect(ledger.pairs_out == pairs, "the splits have the pairs of the ledger")
    dropped = [json.loads(line) for file in (out / "rejects").glob("*") for line in file.read_bytes().splitlines()]
    case.expect(Counter(each["reason"] for each in dropped) == ledger.drops, "rejects/ has the drops of the ledger")
    case.expect("row_error" not in ledger.drops, f"no row is an error of the program: {dropped}")
    stored = [row for file in (out / "provenance").glob("*") for row in pq.read_table(file).to_pylist()]
    case.expect(len(stored) == pairs, "provenance/ has a line for each pair")
    case.expect(ledger.rows_in + ledger.extra_pairs == len(stored) + len(dropped), "the ledger balances")
    places = {(row["file"], row["file_row"]) for row in stored} | {(each["file"], each["row"]) for each in dropped}
    written = {(path, row) for path, count in counts.items() for row in range(count)}
    case.expect(places == written, f"each row is a pair or a drop: {sorted(written ^ places)[:5]}")
    case.saw("rows accounted for", len(written))


def _change(rng: random.Random, folder: Path) -> None:
    """Changes an input so that it holds other rows, or goes."""
    path = rng.choice(sorted(folder.iterdir()))
    content = path.read_bytes()
    if len(list(folder.iterdir())) > 1 and rng.random() < 0.3:
        path.unlink()
    else:
        at = rng.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def _differences(one: Manifest, other: Manifest) -> list[str]:
    return [
        f"{name}: {value} {getattr(other, name)}" for name, value in vars(one).items() if value != getattr(other, name)
    ]


ATTACK = Attack("whole runs over fuzzed files: every row accounted for, the same rows the same bytes", prepare=prepare)
