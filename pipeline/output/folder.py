"""The output folder: the names of our files in it, publishing files whole, clearing what an earlier run left."""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from oddsmill.schemas.dataset_files import damaged_shards
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.locks.lock import Lock, is_lock, lock_inside, locked
from oddsmill.schemas.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FOLDER,
    Manifest,
    Split,
    parse_manifest,
    read_manifest,
)
from oddsmill.schemas.process.temporary import temporary_folder
from oddsmill.schemas.provenance import PROVENANCE_FOLDER
from oddsmill.schemas.stores import check_access, files_under, is_file, is_remote, open_file, remove, size_of, upload

RUN_NAME = "run.json"
REPORT_NAME = "report.html"
UNFINISHED_NAME = "unfinished.json"
REJECTS_FOLDER = "rejects"
_TEMPORARY = ".oddsmill-"
_NAME_BYTES = 200
_FROM_WORKERS = f"{_TEMPORARY}inputs.json"
_SHARD = re.compile(r"(train|eval)-\d{5}-of-\d{5}\.arrayrecord")


def shard_name(split: Split, index: int, count: int) -> str:
    """Names the file of a shard, numbered from 0."""
    return f"{split}-{index:05d}-of-{count:05d}.arrayrecord"


@contextmanager
def publishing(path: str, lock: Lock | None = None) -> Iterator[str]:
    """Yields a temporary path; the file written there appears at `path` whole, or not at all.

    Args:
      lock: that of the folder: a run that has lost it publishes nothing any more.

    Raises:
      Refused: it cannot be written: no space is left, or the folder does not take files.
      RunFailed: the lock is lost.
    """
    folder, name = os.path.split(path)
    try:
        if is_remote(path):
            with temporary_folder() as here:
                yield os.path.join(here, name)
                _check(lock)
                upload(os.path.join(here, name), path)
            return
        os.makedirs(folder, exist_ok=True)
        # A name may have 255 bytes, and that of a file of rejects has nearly as many.
        temporary = os.path.join(
            folder, f"{_TEMPORARY}{uuid.uuid4().hex}-{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}"
        )
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _check(lock)
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error.strerror or one_line(error)}){_advice(error)}") from error


def _check(lock: Lock | None) -> None:
    if lock is not None:
        lock.check()


def _advice(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "; free some space, or give another --output, and run again" if full else ""


def write_json(path: str, values: dict[str, Any], lock: Lock | None = None) -> None:
    """Publishes an object as a JSON file. Arguments and errors: see `publishing`."""
    with publishing(path, lock) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str) -> dict[str, Any] | None:
    """Reads the object in a JSON file of ours; None where there is none that can be read."""
    try:
        with open_file(path) as file:
            values = json.load(file)
    except (Refused, ValueError):
        return None
    return values if isinstance(values, dict) else None


def is_finished(folder: str) -> bool:
    """Returns whether a run ended here, and no other has begun since."""
    return _exists(folder, MANIFEST_NAME) and not _exists(folder, UNFINISHED_NAME)


def load_manifest(folder: str) -> Manifest:
    """Reads the manifest of a finished dataset, wherever it lies.

    Raises:
      Refused: it is not there, or damaged.
    """
    if not is_remote(folder):
        return read_manifest(folder)
    check_access([folder])
    path = os.path.join(folder, MANIFEST_NAME)
    if not is_file(path):
        raise Refused(f"{folder} has no {MANIFEST_NAME}: there is no dataset, or preprocessing did not finish")
    with open_file(path) as file:
        return parse_manifest(file.read(), path=path)


def is_complete(folder: str, manifest: Manifest) -> bool:
    """Returns whether every shard is there with the size that the manifest says."""
    if not is_remote(folder):
        return not any(damaged_shards(folder, manifest, digests=False))
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    there = set(files_under(folder))
    return all(shard.name in there and size_of(os.path.join(folder, shard.name)) == shard.bytes for shard in shards)


def put_folder(local: str, target: str, lock: Lock | None = None) -> None:
    """Publishes the files of a folder of this machine. Arguments and errors: see `publishing`."""
    for parent, _, names in os.walk(local):
        for name in names:
            path = os.path.join(parent, name)
            with publishing(os.path.join(target, os.path.relpath(path, local)), lock) as temporary:
                shutil.copyfile(path, temporary)


@contextmanager
def locked_folder(folder: str) -> Iterator[Lock]:
    """Makes the folder where there is none, and holds its lock while the body runs.

    Raises:
      Refused: another run writes there, or it cannot be written.
    """
    what = f"--output={folder}"
    try:
        if not is_remote(folder):
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Refused(f"{what}: cannot write there ({error.strerror}){_advice(error)}") from error
    with locked(lock_inside(folder), what=what, command="oddsmill pipeline run") as lock:
        yield lock


def is_ours(folder: str) -> bool:
    """Tells whether a run has written in the folder, whose manifest may be damaged or gone."""
    names = _names(folder)
    return (
        UNFINISHED_NAME in names
        or "source_fingerprint" in (read_json(os.path.join(folder, MANIFEST_NAME)) or {})
        or any(_SHARD.fullmatch(name) for name in names)
        or "manifest_sha256" in (read_json(os.path.join(folder, RUN_NAME)) or {})
    )


def begin(folder: str, run: dict[str, Any], lock: Lock, overwrite: bool) -> None:
    """Marks the folder as being written and removes what earlier runs left in it.

    Args:
      overwrite: What is left of a dataset without a manifest may be removed.

    Raises:
      Refused: the folder holds files that are not ours, or what is left of a dataset, or cannot be written.
      RunFailed: the lock is lost.
    """
    try:
        if any(not name.startswith(".") for name in _names(folder)):  # hidden ones stay as they are
            if not is_ours(folder):
                raise Refused(f"--output={folder} holds files that are not ours; give an empty or a new folder")
            if not (overwrite or _exists(folder, MANIFEST_NAME) or _exists(folder, UNFINISHED_NAME)):
                raise Refused(
                    f"--output={folder} holds a damaged dataset ({MANIFEST_NAME} is gone); give another folder, or "
                    "--overwrite=true to replace it"
                )
        write_json(os.path.join(folder, UNFINISHED_NAME), run, lock)
        clear(folder)
    except OSError as error:
        raise Refused(f"--output={folder}: cannot write there ({error.strerror}){_advice(error)}") from error


def publish_for_launcher(folder: str, values: dict[str, Any], lock: Lock | None) -> None:
    """Leaves what a worker has to tell the launcher."""
    write_json(os.path.join(folder, _FROM_WORKERS), values, lock)


def take_from_workers(folder: str) -> dict[str, Any]:
    """Returns what a worker left, and removes it."""
    values = read_json(os.path.join(folder, _FROM_WORKERS))
    assert values is not None  # it is written before the manifest
    _delete(folder, _FROM_WORKERS)
    return values


def finish(folder: str, run: dict[str, Any], lock: Lock) -> None:
    """Keeps the record of the run and takes the mark away.

    Raises:
      RunFailed: the lock is lost.
    """
    write_json(os.path.join(folder, RUN_NAME), run, lock)
    _delete(folder, UNFINISHED_NAME)
    lock.check()


def abandon(folder: str, lock: Lock) -> None:
    """Removes what a failed run wrote, but for its rejects: they say why. Nothing where the folder is another's now."""
    if not lock.is_held():
        return
    kept = bool(files_under(os.path.join(folder, REJECTS_FOLDER)))
    clear(folder, keep=REJECTS_FOLDER if kept else None)
    if not kept:
        _delete(folder, UNFINISHED_NAME)


def clear(folder: str, *, keep: str | None = None) -> None:
    """Removes our files, the manifest first, so that no half of a dataset looks whole; leaves others' alone."""
    folders = (TOKENIZER_FOLDER, REJECTS_FOLDER, PROVENANCE_FOLDER)
    for name in sorted(_names(folder), key=lambda name: name != MANIFEST_NAME):
        ours = name in (MANIFEST_NAME, RUN_NAME, REPORT_NAME) or _SHARD.fullmatch(name) or name.startswith(_TEMPORARY)
        if is_lock(name):
            continue
        if ours or (name in folders and name != keep):
            _delete(folder, name)


def _names(folder: str) -> list[str]:
    """Lists the names directly in a folder."""
    if is_remote(folder):
        return sorted({name.partition("/")[0] for name in files_under(folder)})
    return os.listdir(folder)


def _delete(folder: str, name: str) -> None:
    """Removes a file of a folder, or a folder in it with all it holds."""
    path = os.path.join(folder, name)
    if is_remote(folder):
        remove([path] if is_file(path) else [os.path.join(path, below) for below in files_under(path)])
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):  # what is to go is gone: the error that led here is the one to tell
            os.remove(path)


def _exists(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return is_file(path) if is_remote(folder) else os.path.exists(path)
