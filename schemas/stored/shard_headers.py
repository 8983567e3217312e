"""The headers of a shard: how much memory its records take, before any of them is decoded.

A reader takes the memory that the header of a chunk declares, and 36 KB can decompress to 1 GB. A shard whose digest is
the manifest's may still be a stranger's.

Source: https://github.com/google/array_record/blob/main/cpp/layout.proto for the footer, and for chunks and blocks
https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
"""

import os
import struct
from typing import BinaryIO

import numpy as np
import pyarrow as pa

_BLOCK, _BLOCK_HEADER = 1 << 16, 24  # bytes: each block of a file begins with a header that is no content
_CHUNK_HEADER = 40
_SIMPLE = ord("r")  # a chunk whose records are stored one after another
_MAGIC = 0x71930E704FDAE05E


def check_record_sizes(path: str, *, row_length: int) -> None:
    """Checks that no record of a shard takes more memory than a row can; about 1 us a record.

    The reader finds chunks by the footer, which may name any place of the file, so they are looked up there.

    Args:
      path: of a file of this machine.
      row_length: the slots of a row of its dataset.

    Raises:
      OSError: it cannot be read.
      ValueError: a record is larger than any row of that length, or the file is not laid out as a shard of ours; the
        message does not name it.
    """
    with open(path, "rb", buffering=1 << 20) as file:  # a call of the system for each header would take longer
        try:
            starts, footer = _chunk_starts(file, os.fstat(file.fileno()).st_size)
            heads = b"".join([_header(file, start) for start in starts.tolist()])
        except IndexError as error:
            raise ValueError("it is no shard, or damaged: its end is cut") from error
    _, sizes, _, kinds, decoded = np.frombuffer(heads, "<u8").reshape(-1, 5).T
    largest = largest_record(row_length)
    for wrong, problem in (
        (kinds != (_SIMPLE | 1 << 8), "is not alone in its chunk, as those of a dataset are"),
        (sizes > np.diff(np.append(starts, footer)).astype(np.uint64), "overlaps the next"),
        (decoded > largest, f"takes more than the {largest:,} bytes of the largest row of {row_length:,} slots"),
    ):
        if wrong.any():
            raise ValueError(f"record {int(wrong.argmax())} {problem}: the shard is damaged, or was made to do harm")


def largest_record(row_length: int) -> int:
    """Returns a bound on the bytes of a record: 4 a slot, 21 a pair of 3 slots, 8 a run of 2, names and padding."""
    return 16 * row_length + (1 << 13)


def _chunk_starts(file: BinaryIO, size: int) -> tuple[np.ndarray, int]:
    """Returns the offsets of the chunks of records, ascending, [records] int64, and of the footer behind them.

    Raises:
      ValueError, IndexError: the end of the file is not that of a shard.
    """
    end = size - _BLOCK
    _require(end >= 0 and not size % _BLOCK, f"it has {size:,} bytes")
    sizes, values = _records(file, end, most=4)
    *names, footer, magic = _varints(values[: sizes[0]])[0][[0, 2, 1, 3]].tolist()
    _require(names == [0x08, 0x10] and magic == _MAGIC and footer <= end, "its end names no footer")
    sizes, values = _records(file, footer, most=1 + size // _CHUNK_HEADER)
    count, described, fields = len(sizes) - 1, values[: sizes[0]], list[int]()
    while described and len(fields) < 10:
        field, described = _leading(described)
        fields.append(field)
    # A message in a message: its version, the numbers of chunks and records, and the options of the writer.
    length, options = sizes[0] - sum(map(_bytes_of, fields[:2])), len(described)
    _require(
        fields == [0x0A, length, 0x08, 1, 0x10, count, 0x18, count, 0x22, options], "its footer is none of a shard"
    )
    if not count:
        return np.zeros(0, np.int64), footer
    numbers, ends = _varints(values[sizes[0] :])
    _require(
        len(numbers) == 6 * count and np.array_equal(np.diff(ends[5::6], prepend=0), sizes[1:]), "its footer is cut"
    )
    numbers = numbers.reshape(-1, 6)
    starts, blocks = numbers[:, 1], np.append(numbers[:, 1], footer) % _BLOCK
    _require((numbers[:, ::2] == (0x08, 0x10, 0x18)).all(), "its footer is none of a shard")
    _require((starts < np.append(starts[1:], footer)).all(), "its footer does not name its chunks in their order")
    _require(((blocks == 0) | (blocks >= _BLOCK_HEADER)).all(), "its footer names a chunk in the header of a block")
    return starts, footer


def _records(file: BinaryIO, begin: int, *, most: int) -> tuple[np.ndarray, bytes]:
    """Returns the sizes of the small records of a chunk, [n] int64, and the records one after another.

    Args:
      most: how many it may hold.
    """
    _, size, _, kind, decoded = struct.unpack("<5Q", _header(file, begin))
    count = kind >> 8
    most_bytes = 32 * most + 1024
    _require(kind & 0xFF == _SIMPLE and 0 < count <= most and max(size, decoded) <= most_bytes, "its end is too large")
    content = _read(file, begin, _CHUNK_HEADER + size)[_CHUNK_HEADER:]
    compression, (length, rest) = content[0], _leading(content[1:])
    sizes, _ = _varints(_decompressed(compression, rest[:length], most_bytes))
    values = _decompressed(compression, rest[length:], most_bytes)
    _require(len(sizes) == count and sizes.max() <= decoded and sizes.sum() == decoded == len(values), "its end is cut")
    return sizes, values


def _decompressed(compression: int, content: bytes, most_bytes: int) -> bytes:
    if compression == 0:
        return content
    _require(compression == ord("z"), "its end is not compressed as that of a shard of ours")
    size, content = _leading(content)
    _require(size <= most_bytes, "its end is too large")
    try:
        return bytes(pa.decompress(content, size, codec="zstd", asbytes=True))
    except (OSError, pa.ArrowException) as error:  # the former is Arrow's too
        raise ValueError("it is no shard, or damaged: its end cannot be decompressed") from error


def _header(file: BinaryIO, begin: int) -> bytes:
    if 0 < begin % _BLOCK <= _BLOCK - _CHUNK_HEADER:
        file.seek(begin)
        head = file.read(_CHUNK_HEADER)
        _require(len(head) == _CHUNK_HEADER, "it is cut short")
        return head
    return _read(file, begin, _CHUNK_HEADER)


def _read(file: BinaryIO, begin: int, length: int) -> bytes:
    """Reads content, which the headers of blocks interrupt."""
    pieces = []
    while length:
        begin += _BLOCK_HEADER if begin % _BLOCK == 0 else 0
        file.seek(begin)
        pieces.append(file.read(min(length, _BLOCK - begin % _BLOCK)))
        _require(bool(pieces[-1]), "it is cut short")
        begin, length = begin + len(pieces[-1]), length - len(pieces[-1])
    return b"".join(pieces)


def _leading(content: bytes) -> tuple[int, bytes]:
    """Decodes the number at the beginning, seven bits a byte, and returns what follows it, too."""
    value, at = 0, 0
    while content[at] & 0x80:
        value |= (content[at] & 0x7F) << 7 * at
        at += 1
    return value | content[at] << 7 * at, content[at + 1 :]


def _bytes_of(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def _varints(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Decodes numbers that follow each other, [n] int64, and returns the offsets behind each, [n] int64."""
    stored = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(stored < 0x80) + 1
    begins = np.append(0, ends[:-1])
    _require(len(ends) > 0 and ends[-1] == len(stored) and (ends - begins).max() <= 9, "its footer is cut")
    shifts = 7 * (np.arange(len(stored)) - np.repeat(begins, ends - begins))
    return np.add.reduceat((stored & 0x7F).astype(np.int64) << shifts, begins), ends


def _require(holds: bool | np.bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"it is no shard, or damaged: {problem}")
