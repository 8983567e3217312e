"""Reading a finished dataset back: its records in stored order, and where each pair comes from."""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pipeline.output import REJECTS_FOLDER, provenance_path
from schemas.manifest import Manifest, Shard
from schemas.record import Row, check_row, decode_row

_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Rejected(NamedTuple):
    """A line of rejects/, without the raw row."""

    file: str
    row: int
    reason: str
    detail: str


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


def read_rejects(folder: str) -> Iterator[Rejected]:
    """The dropped rows, file by file, in the order of the source; none where rejects/ is not there.

    Raises:
      ValueError: a line is damaged; says which.
    """
    rejects = os.path.join(folder, REJECTS_FOLDER)
    for name in sorted(os.listdir(rejects)) if os.path.isdir(rejects) else ():
        with open(os.path.join(rejects, name), "rb") as file:
            for number, line in enumerate(file):
                try:
                    fields = json.loads(line)
                    yield Rejected(*(fields[field] for field in Rejected._fields))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{REJECTS_FOLDER}/{name}, line {number + 1}: {error}") from error
