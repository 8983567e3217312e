"""Reading a finished dataset back, wherever it lies: its records in stored order, and the source of each pair."""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from oddsmill.pipeline.output.folder import REJECTS_FOLDER
from oddsmill.schemas.dataset_files import open_shard
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, Shard
from oddsmill.schemas.provenance import provenance_batches, provenance_path
from oddsmill.schemas.record import Row, check_row, decode_row
from oddsmill.schemas.stored.shard_headers import check_record_sizes
from oddsmill.schemas.stores import files_under, is_file, local_file, open_file


class Rejected(NamedTuple):
    """A line of rejects/, without the raw row."""

    file: str
    row: int
    reason: str
    detail: str


class Provenance(NamedTuple):
    """The source of a stored pair, `file:row`."""

    id: int
    prompt_id: int
    source: str


def read_shard(folder: str, shard: Shard, manifest: Manifest, *, max_pairs: int) -> Iterator[Row]:
    """Yields the rows of a shard, each checked; a shard of a store lies on this machine meanwhile.

    Raises:
      Refused: it is not there.
      ValueError: it is no shard, or a record is damaged or breaks an invariant; says which.
    """
    path = os.path.join(folder, shard.name)
    if not is_file(path):
        raise Refused(f"{path} is missing")
    with local_file(path) as local:
        yield from read_records(local, shard, manifest, max_pairs=max_pairs)


def read_records(path: str, shard: Shard, manifest: Manifest, *, max_pairs: int) -> Iterator[Row]:
    """Yields the rows of a shard's file on this machine, as `read_shard` does.

    Raises:
      Refused: the system does not open it.
      ValueError: as `read_shard` does.
    """
    try:
        check_record_sizes(path, row_length=manifest.row_length)
        reader = open_shard(path)
    except OSError as error:
        raise Refused(f"{shard.name}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{shard.name}: {error}") from error
    for index in range(reader.num_records()):
        try:
            row = decode_row(reader.read([index])[0], row_length=manifest.row_length)
            check_row(
                row,
                row_length=manifest.row_length,
                vocab_size=manifest.tokenizer.vocab_size,
                max_pairs=max_pairs,
            )
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(f"{shard.name}, record {index}: {error}") from error
        yield row


def read_provenance(folder: str, shard: Shard, *, most_lines: int) -> list[Provenance]:
    """Reads the sources of a shard's pairs, in stored order; none where the file is not there.

    Args:
      most_lines: the pairs that the shard may hold.

    Raises:
      ValueError: it is damaged or longer; says which.
    """
    columns = ("id", "prompt_id", "file", "file_row")
    lines: list[Provenance] = []
    if not is_file(provenance_path(folder, shard.name)):
        return []
    for batch in read_provenance_batches(folder, shard, columns, most_lines=most_lines):
        values = (batch.column(name).to_pylist() for name in columns)
        lines += [Provenance(pair, prompt, f"{file}:{row}") for pair, prompt, file, row in zip(*values, strict=True)]
    return lines


def read_provenance_batches(
    folder: str, shard: Shard, columns: tuple[str, ...], *, most_lines: int
) -> Iterator[pa.RecordBatch]:
    """Yields some columns of what `read_provenance` reads, without a Python object for each value.

    Raises:
      Refused: the file is not there.
      ValueError: it is damaged; says which.
    """
    path = provenance_path(folder, shard.name)
    with local_file(path) as local:
        try:
            yield from provenance_batches(local, columns, most_lines=most_lines)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def read_rejects(folder: str) -> Iterator[Rejected]:
    """Yields the dropped rows, file by file, in the order of the source; none where rejects/ is not there.

    Raises:
      ValueError: a line is damaged; says which.
    """
    rejects = os.path.join(folder, REJECTS_FOLDER)
    for name in files_under(rejects):
        with open_file(os.path.join(rejects, name)) as file:
            for number, line in enumerate(file):
                try:
                    fields = json.loads(line)
                    rejected = Rejected(*(fields[field] for field in Rejected._fields))
                    if not isinstance(rejected.reason, str):
                        raise ValueError(f"the reason is {rejected.reason!r}")
                    yield rejected
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise ValueError(f"{REJECTS_FOLDER}/{name}, line {number + 1}: {error}") from error
