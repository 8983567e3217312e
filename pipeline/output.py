"""The output folder: which names in it are ours, how a file gets there whole, and what an earlier run left."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import Refused
from schemas.manifest import MANIFEST_NAME, TOKENIZER_FOLDER, Split

RUN_NAME = "run.json"
UNFINISHED_NAME = "unfinished.json"
REJECTS_FOLDER = "rejects"
PROVENANCE_FOLDER = "provenance"
_TEMPORARY = ".oddsmill-"
_SHARD = re.compile(r"(train|eval)-\d{5}-of-\d{5}\.arrayrecord")


def shard_name(split: Split, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.arrayrecord"


def provenance_path(folder: str, shard: str) -> str:
    return os.path.join(folder, PROVENANCE_FOLDER, shard.removesuffix(".arrayrecord") + ".parquet")


@contextmanager
def publishing(path: str) -> Iterator[str]:
    """Yields a temporary path beside `path`; what was written there appears at `path` whole, or not at all."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{_TEMPORARY}{uuid.uuid4().hex}-{name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_json(path: str, values: dict[str, Any]) -> None:
    with publishing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a JSON file of ours; None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def is_finished(folder: str) -> bool:
    """Whether a run ended here, and no other has begun since."""
    return os.path.isfile(os.path.join(folder, MANIFEST_NAME)) and not _exists(folder, UNFINISHED_NAME)


def begin(folder: str, run: dict[str, Any]) -> None:
    """Marks the folder as being written and removes what earlier runs left in it.

    Raises:
      Refused: the folder holds something and none of it says that it is ours, or cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        manifest = read_json(os.path.join(folder, MANIFEST_NAME)) or {}
        ours = "source_fingerprint" in manifest or _exists(folder, UNFINISHED_NAME)
        if not ours and any(not name.startswith(_TEMPORARY) for name in os.listdir(folder)):
            raise Refused(f"--output={folder} holds files that are not ours; give an empty or a new folder")
        write_json(os.path.join(folder, UNFINISHED_NAME), run)
        clear(folder)
    except OSError as error:
        raise Refused(f"--output={folder}: cannot write there ({error.strerror})") from error


def finish(folder: str, run: dict[str, Any]) -> None:
    """Keeps the record of the run and takes the mark away."""
    write_json(os.path.join(folder, RUN_NAME), run)
    os.remove(os.path.join(folder, UNFINISHED_NAME))


def abandon(folder: str) -> None:
    """Removes what a failed run wrote, but for its rejects: they say why."""
    clear(folder, keep=REJECTS_FOLDER)
    if not _exists(folder, REJECTS_FOLDER):
        os.remove(os.path.join(folder, UNFINISHED_NAME))


def clear(folder: str, *, keep: str | None = None) -> None:
    """Removes our files, the manifest first, so that no half of a dataset looks whole; leaves others' alone."""
    folders = (TOKENIZER_FOLDER, REJECTS_FOLDER, PROVENANCE_FOLDER)
    for name in sorted(os.listdir(folder), key=lambda name: name != MANIFEST_NAME):
        path = os.path.join(folder, name)
        if name in folders and name != keep:
            shutil.rmtree(path)
        elif name in (MANIFEST_NAME, RUN_NAME) or _SHARD.fullmatch(name) or name.startswith(_TEMPORARY):
            os.remove(path)


def _exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))
