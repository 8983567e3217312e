"""What a file is: told from its first bytes, and from its name where these say nothing."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple, cast

import pyarrow as pa

from oddsmill.pipeline.input.json_array import LONGEST_ROW
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import open_file

Kind = Literal["lines", "array", "csv", "parquet", "arrow", "arrow_stream"]
Compression = Literal["gzip", "zstd"]
# What reading a damaged file raises, whatever its kind.
DAMAGE = (EOFError, zlib.error, pa.ArrowException, OSError)

_HEAD_BYTES = 4096
_COMPRESSIONS: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BINARY_KINDS: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow_stream"}
_NOT_READ = {
    b"BZh": "is compressed by bzip2; give it as .gz or .zst",
    b"\xfd7zXZ": "is compressed by xz; give it as .gz or .zst",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\xff\xfe": "is UTF-16; give it as UTF-8",
    b"\xfe\xff": "is UTF-16; give it as UTF-8",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FileForm(NamedTuple):
    """How a file is read.

    Attributes:
      delimiter: between the fields of a CSV file; else empty.
    """

    kind: Kind
    compression: Compression | None
    delimiter: str = ""


def recognize(path: str) -> FileForm:
    """Tells what a file is.

    Raises:
      Refused: it cannot be read, or is something that is not read here.
    """
    with open_file(path) as file:
        head = file.read(_HEAD_BYTES)
    compression = next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)
    name = path.lower()
    if compression:
        # A broken one is refused when it is read, with the row it breaks at.
        with open_stream(path, compression) as file, contextlib.suppress(*DAMAGE):
            head = file.read(_HEAD_BYTES)
        name = name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    kind = next((kind for magic, kind in _BINARY_KINDS.items() if head.startswith(magic)), None)
    if kind:
        if compression:
            raise Refused(f"{path} is a compressed {kind.split('_')[0].title()} file; unpack it")
        return FileForm(kind, None)
    for magic, problem in _NOT_READ.items():
        if head.startswith(magic):
            raise Refused(f"{path} {problem}")
    for ending, delimiter in ((".csv", ","), (".tsv", "\t")):
        if name.endswith(ending):
            return FileForm("csv", compression, delimiter)
    for ending in (".parquet", ".arrow", ".feather"):
        if name.endswith(ending):
            raise Refused(f"{path}: damaged {ending[1:].title()} file (it does not begin like one)")
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    # A file of lines may begin with a row that is a list; its name tells it from an array.
    array = text.startswith(b"[") and not name.endswith((".jsonl", ".ndjson"))
    return FileForm("array" if array else "lines", compression)


@contextlib.contextmanager
def open_stream(path: str, compression: Compression | None) -> Iterator[BinaryIO]:
    """A file's contents, decompressed as they are read. What is damaged shows when it is read: see `DAMAGE`."""
    with open_file(path) as file:
        if compression is None:
            yield file
        elif compression == "gzip":
            with gzip.open(file) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), "zstd"), 1 << 20))


def read_line(file: BinaryIO) -> bytes:
    """The next line, which only "\\n" ends; empty at the end of the file. Raises `OSError` for one without end."""
    line = file.readline(LONGEST_ROW)
    if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
        raise OSError(f"a line of more than {LONGEST_ROW >> 20} MB")
    return line
