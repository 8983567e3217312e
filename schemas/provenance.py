"""The source of each stored pair: a Parquet file for each shard beside the dataset, one line a pair in stored order.

Nothing needs it to train; tools show it, and evaluation groups by it. No digest of it stands in the manifest, since it
names the files of one machine; so its pages carry checksums of their own.
"""

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from oddsmill.schemas.errors import Refused, one_line

PROVENANCE_FOLDER = "provenance"
# The row of the shard and the pair's id; its prompt's; the input file and the row of it, from 0.
PROVENANCE_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "id": pa.uint64(),
        "prompt_id": pa.uint64(),
        "file": pa.dictionary(pa.int32(), pa.string()),
        "file_row": pa.int64(),
    }
)
_BATCH_LINES = 1 << 16


def provenance_path(folder: str, shard: str) -> str:
    """Returns the path of the file with the sources of a shard's pairs; `shard` is its name in the manifest."""
    return os.path.join(folder, PROVENANCE_FOLDER, shard.removesuffix(".arrayrecord") + ".parquet")


def write_provenance(path: str, table: pa.Table) -> None:
    """Writes the lines of a shard, which have the columns of `PROVENANCE_SCHEMA`, to a file of this machine."""
    pq.write_table(table.cast(PROVENANCE_SCHEMA), path, write_page_checksum=True)


def provenance_batches(
    path: str, columns: tuple[str, ...] = tuple(PROVENANCE_SCHEMA.names), *, most_lines: int
) -> Iterator[pa.RecordBatch]:
    """Yields the lines of a file of this machine by batches, in stored order, with no empty value in them.

    Arrow reads the file by its path, in this thread alone. Through a Python object, or in threads of Arrow's, a
    process that ends meanwhile would abort.

    Args:
      most_lines: that it may have by the manifest, since 100 KB can hold 1 billion.

    Raises:
      ValueError: it is damaged, has more lines, or its columns are others; the message does not name the file.
      Refused: it cannot be opened.
    """
    try:
        with (
            pa.OSFile(path) as source,
            pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            if file.metadata.num_rows > most_lines:
                raise ValueError(f"it has {file.metadata.num_rows:,} lines for at most {most_lines:,} pairs")
            schema, lines = file.schema_arrow, 0
            for name in columns:
                found, known = schema.get_all_field_indices(name), PROVENANCE_SCHEMA.field(name).type
                if len(found) != 1 or _plain(schema.types[found[0]]) != _plain(known):
                    raise ValueError(f"it has no column {name} of type {_plain(known)}")
            for batch in file.iter_batches(_BATCH_LINES, columns=list(columns), use_threads=False):
                lines += len(batch)
                if lines > most_lines:  # its groups may hold more than it says
                    raise ValueError(f"it has more than {most_lines:,} lines, and no more pairs")
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise ValueError("a value is missing")
                yield batch
    except OSError as error:
        if error.errno:  # of the system; one of Arrow's, of damage, has none
            raise Refused(f"{path}: cannot be read ({os.strerror(error.errno)})") from error
        raise ValueError(one_line(error)) from error
    except pa.ArrowException as error:
        raise ValueError(one_line(error)) from error


def _plain(kind: pa.DataType) -> pa.DataType:
    """Returns the type of a column's values, whether or not they are stored by number."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
