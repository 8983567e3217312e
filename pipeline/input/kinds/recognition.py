"""Telling the kind of a file: from its first bytes, and from its name where these say nothing."""

import contextlib
import json
import re

from oddsmill.pipeline.input.kinds.arrow import ARROW_FILE, ARROW_STREAM
from oddsmill.pipeline.input.kinds.csv_table import CSV, TSV
from oddsmill.pipeline.input.kinds.foreign import AS_ROWS, describe_foreign
from oddsmill.pipeline.input.kinds.json_array import JSON_ARRAY, JSON_OBJECTS, JSON_WRAPPED
from oddsmill.pipeline.input.kinds.json_layout import HEAD_BYTES, ROW_FIELDS, Layout, holds_columns, layout_of
from oddsmill.pipeline.input.kinds.json_lines import JSON_LINES
from oddsmill.pipeline.input.kinds.kind import Compression, DataFile, FileKind
from oddsmill.pipeline.input.kinds.parquet import PARQUET
from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK, DAMAGE, open_stream
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import open_file

BINARY_KINDS = (PARQUET, ARROW_FILE, ARROW_STREAM)
TEXT_KINDS = {
    Layout.LINES: JSON_LINES,
    Layout.ARRAY: JSON_ARRAY,
    Layout.OBJECTS: JSON_OBJECTS,
    Layout.WRAPPED: JSON_WRAPPED,
}
KINDS = (*BINARY_KINDS, CSV, TSV, *TEXT_KINDS.values())

# A frame that is to be skipped may come first; its magic number has 16 values.
_COMPRESSIONS: dict[re.Pattern[bytes], Compression] = {
    re.compile(rb"\x1f\x8b"): "gzip",
    re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"): "zstd",
}
_ZSTD_WITH_DICTIONARY = re.compile(
    rb"\x28\xb5\x2f\xfd[" + re.escape(bytes(byte for byte in range(256) if byte & 3)) + rb"]"
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def recognize(path: str) -> DataFile:
    """Tells the kind and the compression of a file.

    Raises:
      Refused: The file cannot be read, or is of a kind that is not read here.
    """
    with open_file(path) as file:
        head = file.read(HEAD_BYTES)
    compression = next((name for magic, name in _COMPRESSIONS.items() if magic.match(head)), None)
    name, place = path.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd"), path
    if compression:
        if _ZSTD_WITH_DICTIONARY.match(head):
            raise Refused(f"{path} is compressed by zstd with a dictionary, which it does not hold; decompress it")
        head, place = b"", f"{path}, decompressed,"
        # A broken file is refused when it is read, with the row that it breaks at.
        with open_stream(path, compression) as file, contextlib.suppress(*DAMAGE):
            head = file.read(HEAD_BYTES)
    for kind in BINARY_KINDS:
        # A text may begin with the same letters.
        if head.startswith(kind.magic) and (head == kind.magic or _CONTROL.search(head)):
            if compression:
                raise Refused(f"{path} is a compressed {kind.name} file; unpack it")
            return DataFile(path, kind, None)
    if problem := describe_foreign(head):
        raise Refused(f"{place} {problem}")
    return DataFile(path, _text_kind(path, name, head), compression)


def _text_kind(path: str, name: str, head: bytes) -> FileKind:
    """Tells the kind of a text, plainly JSON or else by the name of its file."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    named = next((kind for kind in KINDS if kind.endings and name.endswith(kind.endings)), JSON_LINES)
    layout = Layout.LINES
    if is_json_text := text[:1] in (b"[", b"{"):
        layout = layout_of(text, has_lines=name.endswith(JSON_LINES.endings))
        if holds_columns(text):
            raise Refused(f"{path} holds columns, not rows; with pandas write to_json(orient='records', lines=True)")
        if named is JSON_LINES or _is_json(text, layout):
            return TEXT_KINDS[layout]
    if named.magic:
        ending = name.rpartition(".")[2].title()
        raise Refused(f"{path}: damaged {ending} file (it does not begin like one)")
    if named is JSON_LINES and not is_json_text:
        if b"\x00" in head and b"\n{" not in head:  # a row or two of a file of rows may be spoilt so
            raise Refused(f"{path} is no text, and of no kind that is known here; {AS_ROWS}")
        return _table_kind(text) or named
    return named


def _table_kind(text: bytes) -> FileKind | None:
    """Tells a table by its header, where two of the names are those of fields of rows."""
    header = text.partition(b"\n")[0]
    for kind, delimiter in ((CSV, b","), (TSV, b"\t")):
        names = {name.strip(b' \r"').decode("utf-8", "replace").lower() for name in header.split(delimiter)}
        if len(names & ROW_FIELDS) > 1:
            return kind
    return None


def _is_json(text: bytes, layout: Layout) -> bool:
    """Tells whether a text is plainly JSON, whatever the name of its file."""
    if layout is not Layout.LINES:
        return bool(re.match(rb"[\[{]\s*[{\"]", text))
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(text.partition(b"\n")[0]), dict)
    return False
