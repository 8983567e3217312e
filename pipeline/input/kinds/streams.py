"""Bytes and lines of text files, decompressed as they are read."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from oddsmill.pipeline.input.kinds.kind import Compression
from oddsmill.schemas.stores import open_file

LONGEST_ROW = 256 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The exceptions that reading a damaged file raises, whatever its kind.
DAMAGE = (EOFError, zlib.error, pa.ArrowException, OSError)


@contextlib.contextmanager
def open_stream(path: str, compression: Compression | None) -> Iterator[BinaryIO]:
    """Opens a file for reading its decompressed bytes. Damage shows only when it is read: see `DAMAGE`.

    Raises:
      Refused: The file cannot be opened.
    """
    with open_file(path) as file:
        if compression is None:
            yield file
        elif compression == "gzip":
            with gzip.open(file) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), "zstd"), 1 << 20))


def read_line(file: BinaryIO) -> bytes:
    """Returns the next line, which only "\\n" ends; empty at the end of the file.

    Raises:
      OSError: The line has no end within `LONGEST_ROW` bytes.
    """
    line = file.readline(LONGEST_ROW)
    if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
        raise OSError(f"a line of more than {LONGEST_ROW >> 20} MB")
    return line
