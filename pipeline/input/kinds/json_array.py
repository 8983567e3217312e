"""JSON whose rows are not lines: an array of them, objects one after another, or an object that holds a list of them.

Rows are given as the bytes that they are written in, a few at a time in memory.

ijson (3.6, yajl2_c) takes about half of the time that this takes with parsing, but ends the file at the first broken
element, at NaN and at integers beyond 64 bits, and turns lone surrogates into "?"; tokenizing takes longer than either.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Protocol

from oddsmill.pipeline.input.kinds.json_layout import HEAD_BYTES, outline
from oddsmill.pipeline.input.kinds.kind import BrokenFile, FileKind, FoundRow, Part, count_by_reading, whole_file
from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK, LONGEST_ROW, open_stream

# Matches a whole string, or a character that opens, closes or separates elements. A string is found by its quotes: one
# behind a single backslash is a part of it, and what more backslashes mean is left to the second alternative, which
# looks at each. The last is a string that has no end yet: more must be read before anything after it is known.
_TOKEN = re.compile(
    rb"""
    "[^"]*+ (?: (?<=[^\\]\\) " [^"]*+ )*+ (?<!\\) "
    | "[^"\\]*+ (?: \\. [^"\\]*+ )*+ "
    | [\[\]{},]
    | "
    """,
    re.DOTALL | re.VERBOSE,
)
_CLOSES = {b"]": b"[", b"}": b"{"}
_CHUNK_BYTES = 1 << 20
_BETWEEN = b" \t\r\n,"
_SEVERAL = "it holds several lists of rows ({}); give each list a file of its own"


class ByteStream(Protocol):
    """Reads a file: each call returns its next bytes, none at its end."""

    def read(self, size: int, /) -> bytes: ...


def iterate_array(
    file: ByteStream,
    *,
    chunk_bytes: int = _CHUNK_BYTES,
    check_rest: Callable[[Iterator[bytes]], None] | None = None,
) -> Iterator[bytes]:
    """Yields the elements of the array that a file holds, each as its own JSON text, not yet parsed.

    Brackets and strings alone are followed, so an element that is broken inside them spoils itself only.

    Args:
      check_rest: takes what follows the array, in chunks; left out, nothing may.

    Raises:
      BrokenFile: An element has no end, brackets do not match, or something follows the array.
    """
    buffer, position, begin = b"", 0, 0  # bytes not yet yielded; where to look next; where the element begins
    open_brackets: list[bytes] = []
    elements, ended = 0, False
    while not ended:
        chunk = file.read(max(chunk_bytes, len(buffer)))  # doubled, so that a long string is not looked at too often
        if not chunk:
            raise BrokenFile("it ends before the array does")
        buffer = buffer + chunk
        for token in _TOKEN.finditer(buffer, position):
            text = token.group()
            if text == b'"':
                position = token.start()
                break
            position = token.end()
            if text in (b"[", b"{"):
                open_brackets.append(text)
                begin = position if len(open_brackets) == 1 else begin
            elif text in (b"]", b"}"):
                if not open_brackets or open_brackets.pop() != _CLOSES[text]:
                    raise BrokenFile(f"a {text.decode()} that closes nothing")
                ended = not open_brackets
            if ended or (text == b"," and len(open_brackets) == 1):
                element = buffer[begin : token.start()].strip()
                begin = position
                if element or elements or not ended:  # [] has no element, [,] has two that are empty
                    elements += 1
                    yield element
            if ended:
                break
        else:
            position = len(buffer)
        buffer, position, begin = buffer[begin:], position - begin, 0
        if len(buffer) > LONGEST_ROW:
            raise BrokenFile(f"an element of more than {LONGEST_ROW >> 20} MB; a quote or bracket may be missing")
    (check_rest or _check_blank)(chain([buffer], iter(lambda: file.read(_CHUNK_BYTES), b"")))


def iterate_objects(file: ByteStream, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Yields the objects that follow one another in a file, over lines or in one, with commas between or without.

    What stands before an object that is not one goes with it, so that nothing is lost.

    Raises:
      BrokenFile: An object has no end, or brackets do not match.
    """
    buffer, position, begin, is_first = b"", 0, 0, True
    open_brackets: list[bytes] = []
    while chunk := file.read(max(chunk_bytes, len(buffer))):
        buffer = buffer + chunk
        for token in _TOKEN.finditer(buffer, position):
            text = token.group()
            if text == b'"':
                position = token.start()
                break
            position = token.end()
            if text in (b"[", b"{"):
                open_brackets.append(text)
            elif text in (b"]", b"}"):
                if not open_brackets or open_brackets.pop() != _CLOSES[text]:
                    raise BrokenFile(f"a {text.decode()} that closes nothing")
                if not open_brackets:
                    yield buffer[begin:position].removeprefix(BYTE_ORDER_MARK if is_first else b"").strip(_BETWEEN)
                    begin, is_first = position, False
        else:
            position = len(buffer)
        buffer, position, begin = buffer[begin:], position - begin, 0
        if len(buffer) > LONGEST_ROW:
            raise BrokenFile(f"an object of more than {LONGEST_ROW >> 20} MB; a quote or bracket may be missing")
    if buffer.strip(_BETWEEN):
        raise BrokenFile("it ends before an object does")


def iterate_wrapped(file: ByteStream, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Yields the rows of a file that is one object with a list of them, such as `{"data": [...]}`.

    Raises:
      BrokenFile: as `iterate_array`, or there are several lists of rows.
    """
    head = file.read(HEAD_BYTES)
    found = outline(head)
    names = found.row_lists if found else []
    if not found or len(names) != 1:
        raise BrokenFile(_SEVERAL.format(", ".join(names)))
    begin = found.lists[names[0]][0]

    def check_rest(chunks: Iterator[bytes]) -> None:
        last, rest = b"", b""
        for chunk in chunks:
            rest += chunk[: HEAD_BYTES - len(rest)]
            last = chunk.rstrip()[-1:] or last
        more = outline(b'{"":0' + rest)
        if more and more.row_lists:
            raise BrokenFile(_SEVERAL.format(", ".join([*names, *more.row_lists])))
        if last != b"}":
            raise BrokenFile("it ends before the object around its list of rows does")

    yield from iterate_array(_Continued(head[begin:], file), chunk_bytes=chunk_bytes, check_rest=check_rest)


class _Continued:
    """Bytes, then those of a file."""

    def __init__(self, head: bytes, file: ByteStream):
        self._head, self._file = head, file

    def read(self, size: int, /) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head or self._file.read(size)


def _check_blank(rest: Iterator[bytes]) -> None:
    if any(chunk.strip() for chunk in rest):
        raise BrokenFile("something follows the array")


def _read(
    part: Part, first_row: int, wanted: range, *, iterate: Callable[[ByteStream], Iterator[bytes]]
) -> Iterator[FoundRow]:
    with open_stream(part.file.path, part.file.compression) as file:
        for number, element in enumerate(iterate(file), first_row):
            yield FoundRow(number, element)


JSON_ARRAY, JSON_OBJECTS, JSON_WRAPPED = (
    FileKind(name=name, divide=whole_file, count=count_by_reading, read=partial(_read, iterate=iterate))
    for name, iterate in (
        ("JSON array", iterate_array),
        ("JSON objects", iterate_objects),
        ("JSON object with a list of rows", iterate_wrapped),
    )
)
