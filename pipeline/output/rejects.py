"""Writing rejects/: every dropped row with its reason, in the order of the source."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from oddsmill.pipeline.output.blocks import encode_block, open_blocks
from oddsmill.pipeline.output.folder import REJECTS_FOLDER, publishing
from oddsmill.schemas.drops import DropReason, Reject
from oddsmill.schemas.locks.lock import Lock
from oddsmill.schemas.manifest import file_sha256

# A block's lines: the number of the row, that of the reason, and the line that rejects/ will hold.
REJECTS = pa.schema({"row": pa.int64(), "reason": pa.int64(), "line": pa.large_binary()})
_REASONS = list(DropReason)
_BLOCK_BYTES = 4 << 20
_NAME_BYTES = 200  # of an input, in the name of the file of its rejects: a name may have 255


class RejectBlocks:
    """Gathers rejects, as the lines that rejects/ will hold, into blocks for the shuffle: one file's to a block."""

    def __init__(self, paths: Sequence[str]):
        """Starts with nothing gathered.

        Args:
          paths: the input files, by the number that an `Origin` has.
        """
        self._paths, self._bytes = paths, 0
        self._items: dict[int, list[tuple[int, int, bytes]]] = defaultdict(list)

    def add(self, reject: Reject) -> None:
        """Gathers one reject."""
        fields = {
            "file": self._paths[reject.origin.file],
            "row": reject.origin.row,
            "reason": reject.reason,
            "detail": reject.detail,
            "raw": reject.raw,
        }
        # A lone surrogate (a file name that is not UTF-8 has some) becomes what JSON writes for it.
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self._items[reject.origin.file].append((reject.origin.row, _REASONS.index(reject.reason), line))
        self._bytes += len(line)

    def full(self) -> Iterator[tuple[int, bytes]]:
        """Yields the blocks, with the number of their file, once they are large enough to send."""
        if self._bytes >= _BLOCK_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """Yields the blocks of all that is gathered, however little."""
        items, self._items, self._bytes = self._items, defaultdict(list), 0
        for file, of_file in items.items():
            yield file, encode_block(pa.table(list(zip(*of_file, strict=True)), REJECTS))


def write_rejects(
    blocks: Iterable[bytes], *, output: str, number: int, path: str, lock: Lock | None = None
) -> tuple[dict[str, int], dict[str, str]]:
    """Writes the rejects of one input file as JSON lines.

    Args:
      number: the file's number in the list of inputs; it keeps files of equal names apart.
      lock: that of the output folder.

    Returns: the number of rows that were dropped for each reason; the digest of the file by its name in the folder.
    """
    whole = os.path.basename(path).encode("utf-8", "backslashreplace")
    name = f"{number:05d}-{whole[:_NAME_BYTES].decode('utf-8', 'ignore')}.jsonl"
    with open_blocks(REJECTS, blocks) as items:
        target = os.path.join(output, REJECTS_FOLDER, name)
        with publishing(target, lock) as temporary:
            with open(temporary, "wb") as file:
                for index in np.lexsort([items.columns["reason"], items.columns["row"]]).tolist():
                    file.write(items.payload("line", index))
            digest = file_sha256(temporary)
        counts = Counter(items.columns["reason"].tolist())
    return {str(_REASONS[reason]): count for reason, count in counts.items()}, {f"{REJECTS_FOLDER}/{name}": digest}
