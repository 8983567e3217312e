"""The files of a dataset beside its manifest, which has their digests: shards and tokenizer."""

import errno
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from oddsmill.schemas.chat.added_tokens import ADDED_TOKENS
from oddsmill.schemas.chat.special_tokens import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from oddsmill.schemas.chat.template import TEMPLATE_FILE, TEMPLATE_FOLDER
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, Shard, file_sha256
from oddsmill.schemas.process.threads import check_reader_threads
from oddsmill.schemas.stored.shard_headers import check_record_sizes

# Files that are read where they are there.
_OPTIONAL = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TEMPLATE_FILE)
# Records are read one by one, at random or in order, by the thread that asks.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_OF_THE_SYSTEM = re.compile(r"\w+\(\) failed: ([^;]+)")


def open_shard(path: str, *, records: int | None = None) -> ArrayRecordReader:
    """Opens a shard of this machine for reading; it is closed when the reader is let go.

    Args:
      records: how many it must hold, where that is known.

    Raises:
      OSError: the system does not open or read it: it is not there, too many files are open, the disk fails, no
        threads can be started.
      ValueError: it is no shard, is damaged, or holds another number of records; the message does not name it.
    """
    check_reader_threads()
    reader = ArrayRecordReader(path, _OPTIONS)
    if not reader.ok():
        problem = _problem(reader)
        of_system = _OF_THE_SYSTEM.match(problem)
        if of_system:
            numbers = {os.strerror(number): number for number in errno.errorcode}
            raise OSError(numbers.get(of_system[1], errno.EIO), of_system[1], path)
        raise ValueError(problem)
    if records is not None and reader.num_records() != records:
        raise ValueError(f"it holds {reader.num_records()} records, the manifest says {records}")
    return reader


def _problem(reader: ArrayRecordReader) -> str:
    """Returns why a shard cannot be read, which its reader says only when it is closed."""
    try:
        reader.close()
    except RuntimeError as error:
        return str(error)
    return "it cannot be read"


def lacks_files(error: BaseException) -> bool:
    """Says whether an error is that too many files are open, in this process or in one whose error it repeats."""
    return any(os.strerror(number) in str(error) for number in (errno.EMFILE, errno.ENFILE))


def damaged_shards(folder: str | Path, manifest: Manifest, *, digests: bool = True) -> Iterator[str]:
    """Yields a line for each shard on disk that is missing or altered.

    Args:
      digests: look into contents too, as `problem_of_shard` does. Reads every byte (about 1 GB/s).
    """
    for split in manifest.splits.values():
        for shard in split.shards:
            path = os.path.join(folder, shard.name)
            if not os.path.isfile(path):
                yield f"{path} is missing"
            elif os.path.getsize(path) != shard.bytes:
                yield f"{path} has {os.path.getsize(path)} bytes, the manifest says {shard.bytes}"
            elif digests and (problem := problem_of_shard(path, shard, manifest)):
                yield problem


def problem_of_shard(path: str, shard: Shard, manifest: Manifest) -> str | None:
    """Says why a shard's bytes are not to be read: they are not those of the manifest, or take too much memory.

    Raises:
      OSError: it cannot be read.
    """
    if file_sha256(path) != shard.sha256:
        return f"{path} was altered: its sha256 is not the manifest's"
    try:
        check_record_sizes(path, row_length=manifest.row_length)
    except ValueError as error:
        return f"{path}: {error}"
    return None


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
