"""Reading a finished dataset back: its records in stored order, and where each pair comes from."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pipeline.output import provenance_path
from schemas.manifest import Manifest, Shard
from schemas.record import Row, check_row, decode_row

_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Provenance(NamedTuple):
    """Where a stored pair comes from."""

    id: int
    prompt_id: int
    source: str


def read_shard(folder: str, shard: Shard, manifest: Manifest, *, max_pairs: int) -> Iterator[Row]:
    """The rows of a shard, each checked.

    Raises:
      ValueError: a record is damaged or breaks an invariant; says which.
    """
    reader = ArrayRecordReader(os.path.join(folder, shard.name), _READER_OPTIONS)
    try:
        for index in range(reader.num_records()):
            try:
                row = decode_row(reader.read([index])[0])
                check_row(
                    row,
                    row_length=manifest.row_length,
                    vocab_size=manifest.tokenizer.vocab_size,
                    max_pairs=max_pairs,
                )
            except (ValueError, RuntimeError, IndexError) as error:
                raise ValueError(f"{shard.name}, record {index}: {error}") from error
            yield row
    finally:
        reader.close()


def read_provenance(folder: str, shard: Shard) -> list[Provenance]:
    """Where the pairs of a shard come from, in stored order; empty where the file is not there."""
    path = provenance_path(folder, shard.name)
    if not os.path.isfile(path):
        return []
    table = pq.read_table(path)
    columns = [table.column(name).to_pylist() for name in ("id", "prompt_id", "file", "file_row")]
    return [Provenance(pair, prompt, f"{file}:{row}") for pair, prompt, file, row in zip(*columns, strict=True)]
