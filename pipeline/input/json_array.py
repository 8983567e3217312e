"""The elements of one large JSON array, as the bytes that they are written in, a few at a time in memory."""

import re
from collections.abc import Iterator
from typing import BinaryIO

# A whole string, or a character that opens, closes or parts elements. A string that has no end yet is the last
# alternative: what follows it is not known before more is read.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]|"', re.DOTALL)
_CLOSES = {b"]": b"[", b"}": b"{"}
_CHUNK_BYTES = 1 << 20
LONGEST_ROW = 256 << 20


class BrokenArray(ValueError):
    """The array cannot be followed past this point; the message says why."""


def iterate_array(file: BinaryIO, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """The elements of the array that a file holds, each as its own JSON text, not yet parsed.

    Brackets and strings alone are followed, so an element that is broken inside them spoils itself only.

    Raises:
      BrokenArray: an element has no end, brackets do not match, or something follows the array.
    """
    buffer, position, begin = b"", 0, 0  # bytes not yet given out; where to look next; where the element begins
    open_brackets: list[bytes] = []
    elements, ended = 0, False
    while not ended:
        chunk = file.read(max(chunk_bytes, len(buffer)))  # doubled, so that a long string is not looked at too often
        if not chunk:
            raise BrokenArray("it ends before the array does")
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
                    raise BrokenArray(f"a {text.decode()} that closes nothing")
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
            raise BrokenArray(f"an element of more than {LONGEST_ROW >> 20} MB; a quote or bracket may be missing")
    while rest := buffer or file.read(_CHUNK_BYTES):
        if rest.strip():
            raise BrokenArray("something follows the array")
        buffer = b""
