"""The files of a dataset beside its manifest, which has their digests: shards and tokenizer."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from oddsmill.schemas.chat.added_tokens import ADDED_TOKENS
from oddsmill.schemas.chat.special_tokens import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from oddsmill.schemas.chat.template import TEMPLATE_FILE, TEMPLATE_FOLDER
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, file_sha256

# Files that are read where they are there.
_OPTIONAL = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TEMPLATE_FILE)


def damaged_shards(folder: str | Path, manifest: Manifest, *, digests: bool = True) -> Iterator[str]:
    """Yields a line for each shard on disk that is missing or altered.

    Args:
      digests: compare contents too, not only sizes. Reads every byte (about 1 GB/s).
    """
    for split in manifest.splits.values():
        for shard in split.shards:
            path = os.path.join(folder, shard.name)
            if not os.path.isfile(path):
                yield f"{path} is missing"
            elif os.path.getsize(path) != shard.bytes:
                yield f"{path} has {os.path.getsize(path)} bytes, the manifest says {shard.bytes}"
            elif digests and file_sha256(path) != shard.sha256:
                yield f"{path} was altered: its sha256 is not the manifest's"


def damaged_tokenizer(folder: str | Path, manifest: Manifest, *, further: Collection[str] = ()) -> Iterator[str]:
    """Yields a line for each file of a tokenizer's folder that is missing, altered, or read and not in the manifest.

    Args:
      folder: that of the tokenizer, of a dataset or of a run.
      further: files that may stand there beside those of the manifest.
    """
    folder, digests = Path(folder), manifest.tokenizer.sha256
    for name, digest in digests.items():
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif file_sha256(folder / name) != digest:
            yield f"{folder / name} was altered: its sha256 is not the manifest's"
    templates = [f"{TEMPLATE_FOLDER}/{path.name}" for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))]
    for name in (*_OPTIONAL, *templates):
        if name not in digests and name not in further and (folder / name).is_file():
            yield f"{folder / name} is none of the files that made the rows"


def check_shards(folder: str | Path, manifest: Manifest) -> None:
    """Refuses a dataset with a missing or altered shard, all of them named at once.

    Raises:
      Refused: as said.
    """
    damage = list(damaged_shards(folder, manifest))
    if damage:
        raise Refused("; ".join(damage) + f". Run the preprocessing of {folder} again")


def check_tokenizer_files(folder: str | Path, manifest: Manifest) -> None:
    """Refuses a dataset whose tokenizer is not the one that made its rows, all files named at once.

    Raises:
      Refused: a file is missing, altered, or beside those of the manifest.
    """
    damage = list(damaged_tokenizer(os.path.join(folder, TOKENIZER_FOLDER), manifest))
    if damage:
        raise Refused("; ".join(damage) + f". Run the preprocessing of {folder} again")
