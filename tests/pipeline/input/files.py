"""Files of every kind that is read, made of the same rows, and reading them as the workers do."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import count_part, divide, number_parts, read_batches
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sources import find_inputs
from tests import disk_store  # noqa: F401 - serves store://


def read(*paths: Path | str, part_bytes: int = 32 << 20, **settings: Any) -> list[RawRow]:
    """The rows as the workers read them: every input divided, counted, numbered, each part on its own."""
    inputs = find_inputs(SourceConfig(path=[str(path) for path in paths], **settings))
    return [
        row
        for number, source in enumerate(inputs)
        for part in number_parts(source, map(count_part, divide(number, source, part_bytes=part_bytes)[::-1]))
        for batch in read_batches(part)
        for row in batch
    ]


def as_csv(rows: list[dict[str, str]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_arrow(rows: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


KINDS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "rows.jsonl": as_lines,
    "lines.json": as_lines,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "members.jsonl.gz": lambda rows: gzip.compress(as_lines(rows[:9])) + gzip.compress(as_lines(rows[9:])),
    "rows.jsonl.zst": lambda rows: zstd(as_lines(rows)),
    "frames.jsonl.zst": lambda rows: zstd(as_lines(rows[:9])) + zstd(as_lines(rows[9:])),
    "skip.jsonl.zst": lambda rows: b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello" + zstd(as_lines(rows)),
    "array.jsonl": lambda rows: json.dumps(rows).encode(),
    "pretty.jsonl": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "joined.json": lambda rows: "".join(map(json.dumps, rows)).encode(),
    "data.json": lambda rows: json.dumps({"version": "1", "data": rows, "more": [1]}).encode(),
    "rows.json.gz": lambda rows: gzip.compress(json.dumps({"train": rows}, indent=2).encode()),
    "lines.csv": as_lines,
    "array.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "array.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "array.json.zst": lambda rows: zstd(json.dumps(rows).encode()),
    "rows.csv": lambda rows: as_csv(rows, ","),
    "rows.csv.gz": lambda rows: gzip.compress(as_csv(rows, ",")),
    "rows.tsv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows, "\t"),
    "rows.parquet": as_parquet,
    "file.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "stream.arrow": lambda rows: as_arrow(rows, pa.ipc.new_stream),
}
