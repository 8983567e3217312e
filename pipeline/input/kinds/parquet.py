"""Parquet files, divided at their row groups."""

from collections.abc import Iterator

import pyarrow.parquet as pq

from oddsmill.pipeline.input.kinds.arrow import number_rows, open_for_arrow, refusing_damaged
from oddsmill.pipeline.input.kinds.kind import (
    BATCH_ROWS,
    COMPRESSED_INFLATION,
    DataFile,
    FileKind,
    FoundRow,
    Part,
    Span,
)


def _divide(file: DataFile, part_bytes: int) -> list[Span]:
    with (
        refusing_damaged(file),
        open_for_arrow(file.path) as source,
        pq.ParquetFile(source, pre_buffer=False) as opened,
    ):
        metadata = opened.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [Span(group, group + 1, count) for group, count in enumerate(rows)]


def _count(part: Part) -> int | None:
    return part.span.rows


def _read(part: Part, first_row: int, wanted: range) -> Iterator[FoundRow]:
    with open_for_arrow(part.file.path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        groups = list(range(part.span.start, part.span.end))
        yield from number_rows(file.iter_batches(BATCH_ROWS, row_groups=groups, use_threads=False), first_row, wanted)


PARQUET = FileKind(
    name="Parquet",
    magic=b"PAR1",
    endings=(".parquet",),
    inflation=COMPRESSED_INFLATION,
    is_counted_fast=True,
    divide=_divide,
    count=_count,
    read=_read,
)
