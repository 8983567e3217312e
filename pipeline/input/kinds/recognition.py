"""Telling the kind of a file: from its first bytes, and from its name where these say nothing."""

import contextlib

from oddsmill.pipeline.input.kinds.arrow import ARROW_FILE, ARROW_STREAM
from oddsmill.pipeline.input.kinds.csv_table import CSV, TSV
from oddsmill.pipeline.input.kinds.json_array import JSON_ARRAY
from oddsmill.pipeline.input.kinds.json_lines import JSON_LINES
from oddsmill.pipeline.input.kinds.kind import Compression, DataFile
from oddsmill.pipeline.input.kinds.parquet import PARQUET
from oddsmill.pipeline.input.kinds.streams import BYTE_ORDER_MARK, DAMAGE, open_stream
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import open_file

# The first kind that fits is taken; JSON lines fit every text.
KINDS = (PARQUET, ARROW_FILE, ARROW_STREAM, CSV, TSV, JSON_ARRAY, JSON_LINES)

_HEAD_BYTES = 4096
_COMPRESSIONS: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_NOT_READ = {
    b"BZh": "is compressed by bzip2; give it as .gz or .zst",
    b"\xfd7zXZ": "is compressed by xz; give it as .gz or .zst",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\xff\xfe": "is UTF-16; give it as UTF-8",
    b"\xfe\xff": "is UTF-16; give it as UTF-8",
}


def recognize(path: str) -> DataFile:
    """Tells the kind and the compression of a file.

    Raises:
      Refused: The file cannot be read, or is of a kind that is not read here.
    """
    with open_file(path) as file:
        head = file.read(_HEAD_BYTES)
    compression = next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)
    name = path.lower()
    if compression:
        # A broken file is refused when it is read, with the row that it breaks at.
        with open_stream(path, compression) as file, contextlib.suppress(*DAMAGE):
            head = file.read(_HEAD_BYTES)
        name = name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    for kind in KINDS:
        if kind.magic and head.startswith(kind.magic):
            if compression:
                raise Refused(f"{path} is a compressed {kind.name} file; unpack it")
            return DataFile(path, kind, None)
    for magic, problem in _NOT_READ.items():
        if head.startswith(magic):
            raise Refused(f"{path} {problem}")
    for kind in KINDS:
        if name.endswith(kind.endings):
            if kind.magic:
                ending = name.rpartition(".")[2].title()
                raise Refused(f"{path}: damaged {ending} file (it does not begin like one)")
            return DataFile(path, kind, compression)
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    kind = next(kind for kind in KINDS if kind.opening is not None and text.startswith(kind.opening))
    return DataFile(path, kind, compression)
