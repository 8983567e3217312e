"""The source of each stored pair: a Parquet file for each shard beside the dataset, one line a pair in stored order.

Columns: `row` (of the shard), `id` and `prompt_id` (uint64), `file`, `file_row`. Nothing needs it to train; tools show
it, and evaluation groups by it.
"""

import os

PROVENANCE_FOLDER = "provenance"


def provenance_path(folder: str, shard: str) -> str:
    """Returns the path of the file with the sources of a shard's pairs; `shard` is its name in the manifest."""
    return os.path.join(folder, PROVENANCE_FOLDER, shard.removesuffix(".arrayrecord") + ".parquet")
