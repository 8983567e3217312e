"""Each transform by itself, called as Beam calls it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from apache_beam.pvalue import TaggedOutput

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.output.seen import Seen, add_seen
from oddsmill.pipeline.resolved_run import ResolvedRun, resolve_run
from oddsmill.pipeline.transforms import CountRows, DivideInputs, NumberRows, ParseRows, ReadRows
from oddsmill.schemas.drops import DropReason


@pytest.fixture
def resolved(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> ResolvedRun:
    """A run over five rows, the fourth of which has no answer."""
    rows = triples(5)
    rows[3] = {**rows[3], "chosen": " "}
    config = PreprocessConfig(
        source=SourceConfig(path=str(write_rows("rows.jsonl", rows))),
        tokenizer=str(tokenizer_folder),
        output=str(tmp_path / "out"),
    )
    return resolve_run(config)


def by_tag(elements: Iterable[Any]) -> dict[str, list[Any]]:
    """The elements that a transform gives, by their tag; the main output is under `main`."""
    tagged: dict[str, list[Any]] = {"main": []}
    for element in elements:
        if isinstance(element, TaggedOutput):
            tagged.setdefault(element.tag, []).append(element.value)
        else:
            tagged["main"].append(element)
    return tagged


def read(resolved: ResolvedRun) -> dict[str, list[Any]]:
    """Returns the rows that the transforms up to `ReadRows` give of all inputs."""
    parts = [part for element in enumerate(resolved.inputs) for part in DivideInputs().process(element)]
    counted = [counted for part in parts for counted in CountRows(resolved).process(part)]
    assert {number for number, _ in counted} == {0}
    numbered = NumberRows(resolved).process((0, [part for _, part in counted]))
    return by_tag(element for part in numbered for element in ReadRows(resolved).process(part))


def test_rows_are_read_with_their_place_and_fingerprint(resolved: ResolvedRun):
    tagged = read(resolved)
    rows = [row for batch in tagged["main"] for row in batch]
    assert [row.origin.row for row in rows] == [0, 1, 2, 3, 4]
    seen = add_seen(tagged["seen"])
    assert seen == Seen({0: 5}, sum(keys.fingerprint(row.as_bytes()) for row in rows) % keys.FINGERPRINT_MODULUS)


def test_a_row_that_is_no_pair_goes_to_the_rejects(resolved: ResolvedRun):
    (batch,) = read(resolved)["main"]
    tagged = by_tag(ParseRows(resolved).process(batch))
    (parsed,) = tagged["main"]
    assert [row.origin.row for row, _ in parsed] == [0, 1, 2, 4]
    (reject,) = tagged["rejects"]
    assert (reject.origin.row, reject.reason) == (3, DropReason.EMPTY_ANSWER)
    assert "seen" not in tagged


def test_columns_that_no_one_reads_are_counted_over_all_batches(resolved: ResolvedRun):
    (batch,) = read(resolved)["main"]
    rows = [row._replace(parsed=row.parsed | {"topic": "s", "id": row.origin.row, "note": ""}) for row in batch]
    halves = [by_tag(ParseRows(resolved).process(half)) for half in (rows[:2], rows[2:])]
    # The fourth row is dropped, with all its columns.
    assert add_seen([seen for half in halves for seen in half["seen"]]) == Seen(not_read={"topic": 4, "id": 4})
