"""JSON arrays: one row an element, given as the bytes that it is written in, a few at a time in memory.

ijson (3.6, yajl2_c) reads 50 MB of HH in 0.14 s of CPU where this takes 0.55 s with parsing, but ends the file at the
first broken element, at NaN and at integers beyond 64 bits, and turns lone surrogates into "?"; tokenizing takes longer
than either.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from oddsmill.pipeline.input.kinds.kind import BrokenFile, FileKind, FoundRow, Part, count_by_reading, whole_file
from oddsmill.pipeline.input.kinds.streams import LONGEST_ROW, open_stream

# Matches a whole string, or a character that opens, closes or separates elements. The last alternative is a string
# that has no end yet: more must be read before anything after it is known.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]|"', re.DOTALL)
_CLOSES = {b"]": b"[", b"}": b"{"}
_CHUNK_BYTES = 1 << 20


def iterate_array(file: BinaryIO, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Yields the elements of the array that a file holds, each as its own JSON text, not yet parsed.

    Brackets and strings alone are followed, so an element that is broken inside them spoils itself only.

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
    while rest := buffer or file.read(_CHUNK_BYTES):
        if rest.strip():
            raise BrokenFile("something follows the array")
        buffer = b""


def _read(part: Part, first_row: int, wanted: range) -> Iterator[FoundRow]:
    with open_stream(part.file.path, part.file.compression) as file:
        for number, element in enumerate(iterate_array(file), first_row):
            yield FoundRow(number, element)


JSON_ARRAY = FileKind(name="JSON array", opening=b"[", divide=whole_file, count=count_by_reading, read=_read)
