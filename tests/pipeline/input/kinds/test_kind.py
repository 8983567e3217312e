"""The record of a kind and the pieces of its files: what travels to workers, and where it is divided."""

import pickle
from pathlib import Path

import pytest

from oddsmill.pipeline.input import parts
from oddsmill.pipeline.input.kinds import arrow
from oddsmill.pipeline.input.kinds.json_layout import Layout
from oddsmill.pipeline.input.kinds.kind import UNBOUNDED, DataFile, NumberedPart, Part, Span
from oddsmill.pipeline.input.kinds.recognition import KINDS, TEXT_KINDS, recognize
from oddsmill.pipeline.input.parts import read_batches
from tests.pipeline.input import files


@pytest.mark.parametrize("name", files.KINDS)
def test_a_part_of_any_kind_is_read_alike_after_a_journey_to_a_worker(tmp_path: Path, name: str):
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}"} for n in range(30)]
    (tmp_path / name).write_bytes(files.KINDS[name](rows))
    file = recognize(str(tmp_path / name))
    spans = file.kind.divide(file, 100)
    read = []
    for part in (Part(file, 0, order, span, False, True) for order, span in enumerate(spans)):
        there = pickle.loads(pickle.dumps(NumberedPart(part, len(read), range(len(read), 30))))
        read += [row.values() for batch in read_batches(there) for row in batch]
    assert read == rows


@pytest.mark.parametrize("name", files.KINDS)
def test_few_rows_of_any_kind_travel_together_where_they_are_long(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    for module in (parts, arrow):
        monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    rows = [{"prompt": f"p{n}", "chosen": "c" * 400} for n in range(30)]
    (tmp_path / name).write_bytes(files.KINDS[name](rows))
    span = Span(0, 5 if name in ("file.arrow", "rows.parquet") else UNBOUNDED)  # chunks of seven rows
    whole = Part(recognize(str(tmp_path / name)), 0, 0, span, False, True)
    batches = list(read_batches(NumberedPart(whole, 0, range(30))))
    assert [row.values() for batch in batches for row in batch] == rows
    assert {len(batch) for batch in batches} <= {1, 2, 3}


def test_every_kind_in_the_table_can_be_told_from_the_others():
    assert len({kind.magic for kind in KINDS if kind.magic}) == sum(bool(kind.magic) for kind in KINDS)
    endings = [ending for kind in KINDS for ending in kind.endings]
    assert len(set(endings)) == len(endings)
    assert {kind.name for kind in KINDS if not kind.magic and not kind.endings} == {
        kind.name for layout, kind in TEXT_KINDS.items() if layout is not Layout.LINES
    }


@pytest.mark.parametrize("name", files.KINDS)
def test_counting_where_it_is_offered_gives_the_rows_of_each_part(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(files.KINDS[name]([{"n": str(n)} for n in range(40)]))
    file: DataFile = recognize(str(tmp_path / name))
    counts = [
        file.kind.count(Part(file, 0, order, span, False, True))
        for order, span in enumerate(file.kind.divide(file, 100))
    ]
    assert set(counts) == {None} or sum(count or 0 for count in counts) in (40, 41)  # 41: after the last newline
    assert None not in counts or not file.kind.is_counted_fast
