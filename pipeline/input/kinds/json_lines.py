"""JSON lines: one row a line, divided at any byte. Only "\\n" ends a line."""

from collections.abc import Iterator

from oddsmill.pipeline.input.kinds.kind import UNBOUNDED, DataFile, FileKind, FoundRow, Part, Span
from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK, open_stream, read_line
from oddsmill.schemas.stores import open_file, size_of


def _divide(file: DataFile, part_bytes: int) -> list[Span]:
    size = size_of(file.path)
    if file.compression is not None or size <= part_bytes:
        return [Span()]
    return [Span(start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)]


def _count(part: Part) -> int | None:
    """Counts the lines that begin in a part: at the first byte, and after every newline that is not the last byte."""
    if part.file.compression is not None or not part.blank_lines_count:
        return None
    start, end, _ = part.span
    with open_file(part.file.path) as file:
        end = size_of(part.file.path) if end == UNBOUNDED else end
        position = max(start - 1, 0)
        count = 0 if start else 1
        file.seek(position)
        while position < end - 1:
            chunk = file.read(min(1 << 20, end - 1 - position))
            if not chunk:
                break
            count += chunk.count(b"\n")
            position += len(chunk)
        return count


def _read(part: Part, first_row: int, wanted: range) -> Iterator[FoundRow]:
    """Yields the lines that begin in the part, without the blank ones."""
    number = first_row
    with open_stream(part.file.path, part.file.compression) as file:
        position = part.span.start
        if position:
            file.seek(position - 1)
            position += len(read_line(file)) - 1
        while position < part.span.end:
            line = read_line(file)
            if not line:
                return
            position += len(line)
            line = line.removeprefix(BYTE_ORDER_MARK)  # also in the middle, where files were joined
            if line.strip():
                yield FoundRow(number, line.rstrip(b"\r\n"))
            elif not part.blank_lines_count:
                continue
            number += 1


JSON_LINES = FileKind(
    name="JSON lines",
    endings=(".jsonl", ".ndjson"),
    divide=_divide,
    count=_count,
    read=_read,
)
