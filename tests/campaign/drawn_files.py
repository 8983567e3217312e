"""Files of drawn rows, of every kind that is read; and files that are damaged."""

import csv
import datetime
import decimal
import gzip
import io
import json
import random
import zipfile
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from oddsmill.pipeline.input.kinds.json_layout import HEAD_BYTES
from tests.campaign.drawn_rows import DrawnRow, encode, spoil
from tests.pipeline.input.files import zstd

TEXT_KINDS = ("rows.jsonl", "rows.json", "rows.txt", "rows", "array.json", "pretty.json", "joined.json", "wrapped.json")
TABLE_KINDS = ("rows.csv", "rows.tsv")
BINARY_KINDS = ("rows.parquet", "file.arrow", "stream.arrow")
KINDS = (*TEXT_KINDS, *TABLE_KINDS, *BINARY_KINDS)


class Unwritable(Exception):
    """Arrow itself cannot write these values so that it reads them again."""


class DrawnFile(NamedTuple):
    """A file: its name and its bytes."""

    name: str
    content: bytes


def write_file(rng: random.Random, kind: str, rows: list[DrawnRow], *, spoils: bool = False) -> DrawnFile:
    """Writes rows as a file of a kind; texts also compressed.

    Args:
      spoils: where a line is a row, some of the altered rows are lines that are no JSON; a table of Arrow has a column
        of an odd type.
    """
    if kind in BINARY_KINDS:
        return DrawnFile(kind, _binary(rng, kind, rows, spoils=spoils))
    content = _table(kind, rows) if kind in TABLE_KINDS else _text(rng, kind, rows, spoils=spoils)
    form = rng.random()
    if form < 0.15:
        return DrawnFile(f"{kind}.gz", gzip.compress(content, 1))
    if form < 0.3:
        return DrawnFile(f"{kind}.zst", zstd(content))
    return DrawnFile(kind, content)


def damage(rng: random.Random, file: DrawnFile) -> DrawnFile:
    """Damages a file: cut, bytes altered, doubled, another ending, in an archive, empty."""
    content, name = bytearray(file.content), file.name
    what = rng.randrange(9)
    if what == 0:
        del content[rng.randrange(len(content) + 1) :]
    elif what == 1:
        del content[: rng.randrange(len(content) + 1)]
    elif what in (2, 3):
        for _ in range(rng.choice((1, 1, 3, 50))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif what == 4:
        at = rng.randrange(len(content) + 1)
        content[at:at] = rng.choice((b"\x00" * 100, b'"', b"\r\n", b"[", b"\xef\xbb\xbf", bytes(rng.randbytes(30))))
    elif what == 5:
        content = content * 2
    elif what == 6:
        name = rng.choice(
            ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.gz", "a.json.gz", "a.zip", "a")
        )
    elif what == 7:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(name, bytes(content))
        return DrawnFile(rng.choice(("rows.zip", name)), archive.getvalue())
    else:
        content = bytearray(
            rng.choice((b"", b"\n", b"[]", b"{}", b"null", b"PAR1", b"ARROW1\x00\x00", b"\x1f\x8b", b"a,b\n"))
        )
    return DrawnFile(name, bytes(content))


def _text(rng: random.Random, kind: str, rows: list[DrawnRow], *, spoils: bool) -> bytes:
    if kind in ("pretty.json", "joined.json"):
        indent = 2 if kind == "pretty.json" else None
        texts = [json.dumps(row.values, indent=indent) for row in rows]
        if indent and texts[0] == "{}":
            texts[0] = "{\n}"  # that objects lie over lines is told by the first of them
        # Objects on one line are told by the first of them, which must be seen whole.
        is_seen = len(texts[0]) < HEAD_BYTES
        return ("\n" if indent or not is_seen else "").join(texts).encode()
    texts = [encode(rng, row.values) for row in rows]
    if kind == "array.json":
        return b"[" + b",\n".join(texts) + b"]"
    if kind == "wrapped.json":
        return b'{"version": 1, "data": [' + b",\n".join(texts) + b'], "more": {}}'
    if spoils:
        texts = [
            spoil(rng, text) or b"x" if row.pair is None and rng.random() < 0.2 else text
            for row, text in zip(rows, texts, strict=True)
        ]
    end = rng.choice((b"\n", b"\r\n"))
    return (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + end.join(texts) + end * rng.randrange(2)


def is_table(rows: list[DrawnRow]) -> bool:
    """Tells whether a table can hold rows as they are: texts under the same names, none of them without a name."""
    names = rows[0].values.keys()
    return bool(names) and all(
        row.values.keys() == names and all(isinstance(value, str) for value in row.values.values()) for row in rows
    ) and all(name.strip() == name != "" for name in names)  # fmt: skip


def _table(kind: str, rows: list[DrawnRow]) -> bytes:
    names = [*dict.fromkeys(name for row in rows for name in row.values if name.strip())] or ["prompt", "chosen"]
    names = [*dict.fromkeys(name.strip().replace("\r", " ") for name in names)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if kind == "rows.tsv" else ",", quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    for row in rows:
        values = [row.values.get(name, "") for name in names]
        writer.writerow([value if isinstance(value, str) else json.dumps(value) for value in values])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _binary(rng: random.Random, kind: str, rows: list[DrawnRow], *, spoils: bool) -> bytes:
    names = [*dict.fromkeys(name.encode("utf-8", "replace").decode() for row in rows for name in row.values)] or [
        "prompt"
    ]
    columns = {name: _column([row.values.get(name) for row in rows]) for name in names}
    if spoils and rng.random() < 0.5:
        columns[rng.choice(("extra", "prompt", "chosen", "score_chosen"))] = _odd_column(rng, len(rows))
    try:
        return _arrow_bytes(rng, kind, pa.table(columns))
    except (pa.ArrowException, OSError) as error:
        raise Unwritable(str(error)) from error


def _arrow_bytes(rng: random.Random, kind: str, table: pa.Table) -> bytes:
    sink = io.BytesIO()
    table = pa.ipc.open_stream(_stream_of(table)).read_all()  # Arrow writes types so deep that it does not read them
    if kind == "rows.parquet":
        pq.write_table(
            table, sink, row_group_size=rng.choice((3, 100)), compression=rng.choice(("snappy", "none", "zstd"))
        )
        return sink.getvalue()
    new = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((3, 100)))
    return sink.getvalue()


def _stream_of(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _column(values: list[Any]) -> pa.Array:
    """Makes a column of values: of their type, or of their JSON text where they have none that Parquet can hold."""
    try:
        column = pa.array(values)
        if "struct<>" not in str(column.type):
            return column
        raise TypeError("Parquet holds no struct without a field")
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError):
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        return pa.array([text.encode("utf-8", "replace").decode() for text in texts])


def _odd_column(rng: random.Random, count: int) -> pa.Array:
    """Makes a column of a type that JSON does not have."""
    value, kind = rng.choice((
        (b"\xff\x00", pa.binary()), (b"text", pa.large_binary()), (datetime.datetime(2024, 1, 1), pa.timestamp("us")),
        (2**62, pa.timestamp("ns")), (-(2**60), pa.timestamp("s", "UTC")), (datetime.date(1, 1, 1), pa.date32()),
        (decimal.Decimal("1.50"), pa.decimal128(10, 2)), (5, pa.duration("ms")), (1.5, pa.float32()), (None, pa.null()),
        ({"a": 1}, pa.struct({"a": pa.int8(), "b": pa.binary()})), ([("k", 1)], pa.map_(pa.string(), pa.int32())),
        ([b"a", None], pa.list_(pa.binary())), ([1.5], pa.list_(pa.float16())), (datetime.time(1), pa.time64("us")),
        (2**64 - 1, pa.uint64()),
    ))  # fmt: skip
    values = [value if rng.random() < 0.8 else None for _ in range(count)]
    if kind == pa.timestamp("ns") or kind == pa.timestamp("s", "UTC"):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)
