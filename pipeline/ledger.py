"""rejects/: every dropped row, with its reason, in the order of the source."""

import json
import os
from collections import Counter
from collections.abc import Iterable

from pipeline.drops import Reject
from pipeline.output import REJECTS_FOLDER, publishing


def write_rejects(rejects: Iterable[Reject], *, output: str, number: int, path: str) -> dict[str, int]:
    """Writes the rejects of one input file as JSON lines.

    Args:
      number: the file's number in the list of inputs; it keeps files of equal names apart.

    Returns: how many rows were dropped for each reason.
    """
    ordered = sorted(rejects)
    name = f"{number:05d}-{os.path.basename(path)}.jsonl"
    target = os.path.join(output, REJECTS_FOLDER, name)
    with publishing(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for reject in ordered:
            fields = {
                "file": path,
                "row": reject.origin.row,
                "reason": reject.reason,
                "detail": reject.detail,
                "raw": reject.raw,
            }
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    return dict(Counter(str(reject.reason) for reject in ordered))
