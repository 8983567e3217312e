"""The input: what the settings name, divided among the workers. Every row knows its file and its number there."""

import dataclasses
import glob
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.drops import Dropped, DropReason, Origin
from oddsmill.pipeline.input.file_forms import FileForm, recognize
from oddsmill.pipeline.input.hub import find_hub_splits, find_saved_splits, is_hub_dataset, is_saved_dataset, slice_rows
from oddsmill.pipeline.input.readers import (
    BATCH_ROWS,
    FoundRow,
    Part,
    count_record_batches,
    count_rows,
    parquet_row_groups,
    read_part,
)
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.stores import digest_of, find_matches, is_file, is_remote, size_of

PART_BYTES = 32 << 20
# Text of a compressed file, in bytes a byte: HH's .jsonl.gz has 3.6. For the number of shards, a guess does.
_INFLATION = 4
# In ASCII, which takes two thirds of the time; 5 us for a row of HH.
_canonical = json.JSONEncoder(sort_keys=True, default=repr).encode


@dataclass(frozen=True, kw_only=True)
class Input:
    """What rows are numbered in: a file, or a split of a dataset with all its files; as it was at the start.

    Attributes:
      path: how rows name it, e.g. "rows.jsonl" or "hf://org/name/train".
      files: what is read for it, in this order.
      wanted: a split and slice such as "train[:5%]"; None for every row.
      bytes: of the files.
      text_bytes: about how many bytes of text the rows wanted have.
      digest: differs where the contents or the rows wanted differ.
    """

    path: str
    files: list[str]
    wanted: str | None = None
    bytes: int = 0
    text_bytes: int = 0
    digest: str = ""


class RawRow(NamedTuple):
    """A row as it was read: a line of JSON or an element of an array, or the values of a record.

    Attributes:
      problem: why it cannot be read, where that is known; `content` is then what stands there.
      parsed: the value of the JSON, where it was parsed already.
    """

    origin: Origin
    content: bytes | dict[str, Any]
    problem: str | None = None
    parsed: Any = None

    def values(self) -> Any:
        """The value of the row; of a good one, a dictionary.

        Raises:
          Dropped: as unreadable.
        """
        if self.problem is not None:
            raise Dropped(DropReason.UNREADABLE, self.problem)
        if not isinstance(self.content, bytes):
            return self.content
        return parse_json(self.content) if self.parsed is None else self.parsed

    def as_bytes(self) -> bytes:
        """The bytes that stand for this row in the source's fingerprint: equal values have equal bytes."""
        if not isinstance(self.content, bytes):
            return _canonical(self.content).encode()
        try:
            return _canonical(self.values()).encode()
        except Dropped:
            return self.content

    def as_text(self) -> str:
        """The whole row for the eyes of a person; bytes that are not UTF-8 are written as \\xNN."""
        if isinstance(self.content, bytes):
            return self.content.decode("utf-8", "backslashreplace")
        text = json.dumps(self.content, sort_keys=True, ensure_ascii=False, default=repr)
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


def find_inputs(source: SourceConfig) -> list[Input]:
    """What the settings name, in the order given, a glob's files in alphabetical order, each once.

    Raises:
      Refused: a path that names nothing, a file of a kind that is not read, a split, slice, configuration or
        revision that is not there or has no meaning.
    """
    found: list[Input] = []
    apply = {"split": True, "name": True, "revision": True}
    for path in source.paths:
        if is_hub_dataset(path):
            splits = find_hub_splits(path, split=source.split, name=source.name, revision=source.revision)
        elif is_saved_dataset(path):
            apply |= {"name": False, "revision": False}
            splits = find_saved_splits(path, split=source.split)
        else:
            apply = dict.fromkeys(apply, False)
            found += [Input(path=file, files=[file]) for file in find_files([path])]
            continue
        found += [Input(path=name, files=files, wanted=wanted) for name, files, wanted in splits]
    for setting, applies in apply.items():
        if getattr(source, setting) is not None and not applies:
            kind = "a hub dataset or a folder of save_to_disk" if setting == "split" else "a hub dataset"
            raise Refused(f"--source.{setting}={getattr(source, setting)} is for {kind}, and not every path is one")
    return [_describe(each) for each in _once(found)]


def find_files(paths: list[str]) -> list[str]:
    """The files that paths and globs name, in the order given, a glob's in alphabetical order, each once.

    Raises:
      Refused: a path that is no file, or a glob that matches none.
    """
    found: list[str] = []
    for path in paths:
        if not is_remote(path) and os.path.isdir(path):
            raise Refused(f"--source.path={path} is a folder; give its files, for instance {path}/*.jsonl")
        if is_file(path):
            found.append(path)
        elif glob.has_magic(path):
            matches = find_matches(path)
            if not matches:
                raise Refused(f"--source.path={path}: no file matches")
            found += matches
        else:
            raise Refused(f"--source.path={path}: no such file")
    return list(dict.fromkeys(found))


def divide(number: int, source: Input, *, part_bytes: int = PART_BYTES) -> list[Part]:
    """Divides an input into what workers read. The only part of an input is numbered already.

    Args:
      number: the input's, in the list of all.

    Raises:
      Refused: a file is damaged in a way that shows at once, or is none that is read here.
    """
    with ThreadPoolExecutor(8) as pool:  # for a store, where each look at a file takes a while
        ranges = list(pool.map(lambda path: _ranges(path, part_bytes), source.files))
    parts = [
        Part(path, number, 0, form, start, end, numbered=source.path == path, rows=rows)
        for path, (form, spans) in zip(source.files, ranges, strict=True)
        for start, end, rows in spans
    ]
    if len(parts) == 1 and source.wanted is None:
        return [parts[0]._replace(first_row=0)]
    return [part._replace(order=order) for order, part in enumerate(parts)]


def count_part(part: Part) -> Part:
    """The part with the number of its rows, if it is not numbered already."""
    return part if part.first_row is not None else part._replace(rows=count_rows(part))


def number_parts(source: Input, parts: Iterable[Part]) -> list[Part]:
    """Parts of an input, all of them and counted, with the numbers of their rows; those with no row wanted left out.

    Raises:
      Refused: the slice wanted is out of range or empty.
    """
    ordered = sorted(parts, key=lambda part: part.order)
    if len(ordered) == 1 and ordered[0].first_row is not None:
        return ordered
    keep = slice_rows(source.wanted, sum(part.rows or 0 for part in ordered), source.path) if source.wanted else None
    numbered: list[Part] = []
    first_row = 0
    for part in ordered:
        end = first_row + (part.rows or 0)
        if part.rows and (keep is None or (first_row < keep[1] and end > keep[0])):
            numbered.append(part._replace(first_row=first_row, keep=keep))
        first_row = end
    return numbered


def read_batches(part: Part) -> Iterator[list[RawRow]]:
    """The rows of a part, at most `BATCH_ROWS` at a time.

    Raises:
      Refused: the file is damaged or cut short; says after which row.
    """
    rows = (_parse(part.file, found) for found in read_part(part))
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def read_in_order(inputs: list[Input]) -> Iterator[RawRow]:
    """All rows of the inputs one by one, read no further than they are asked for; slices are not heeded.

    Raises:
      Refused: as `divide` and `read_batches`.
    """
    for number, source in enumerate(inputs):
        first_row = 0
        for path in source.files:
            file = Input(path=source.path, files=[path])
            for part in divide(number, file, part_bytes=1 << 62):
                row = None
                for batch in read_batches(part._replace(first_row=first_row, keep=None)):
                    for row in batch:
                        yield row
                first_row = row.origin.row + 1 if row else first_row


def parse_json(line: bytes) -> Any:
    """The value of one line.

    Raises:
      Dropped: as unreadable.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} (0x{line[error.start]:02x}) is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"broken JSON at character {error.pos}: {error.msg}"
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {error}"
    raise Dropped(DropReason.UNREADABLE, problem)


def _parse(file: int, found: FoundRow) -> RawRow:
    """Parses a row once: the fingerprint and the format need its value, the rejects the row as it stands."""
    number, content, problem = found
    parsed = None
    if problem is None and isinstance(content, bytes):
        try:
            parsed = parse_json(content)
        except Dropped as dropped:
            problem = dropped.detail
    return RawRow(Origin(file, number), content, problem, parsed)


def _once(inputs: list[Input]) -> list[Input]:
    """Each file once; the slices of a split stay as they are, since datasets joins them as they are too."""
    seen: dict[tuple[str, int], Input] = {}
    for index, each in enumerate(inputs):
        seen.setdefault((each.path, index if each.wanted else -1), each)
    return list(seen.values())


def _describe(source: Input) -> Input:
    """Size and digest of an input, and its slice, if a look at the files shows whether it is in range."""
    with ThreadPoolExecutor(8) as pool:
        forms = list(pool.map(recognize, source.files))
        sizes = list(pool.map(size_of, source.files))
        digests = list(pool.map(digest_of, source.files))
    share = 1.0
    if source.wanted and all(form.kind in ("parquet", "arrow", "arrow_stream") for form in forms):
        rows = sum(count_part(part).rows or 0 for part in divide(0, source))
        low, high = slice_rows(source.wanted, rows, source.path)
        share = (high - low) / rows
    text = sum(size * (1 if _plain(form) else _INFLATION) for form, size in zip(forms, sizes, strict=True))
    digest = digests[0]
    if len(digests) > 1 or source.wanted:
        digest = f"sha256:{hashlib.sha256(json.dumps([digests, source.wanted]).encode()).hexdigest()}"
    return dataclasses.replace(source, bytes=sum(sizes), text_bytes=math.ceil(text * share), digest=digest)


def _plain(form: FileForm) -> bool:
    return form.compression is None and form.kind != "parquet"


def _ranges(path: str, part_bytes: int) -> tuple[FileForm, list[tuple[int, int | None, int | None]]]:
    """The form of a file, and the ranges it is divided into: start, end, rows where they are known."""
    form = recognize(path)
    if form.kind == "parquet":
        return form, [(group, group + 1, rows) for group, rows in enumerate(parquet_row_groups(path))]
    if form.kind == "arrow":
        batches = count_record_batches(path)
        step = math.ceil(batches / max(1, math.ceil(size_of(path) / part_bytes)))
        return form, [(start, min(start + step, batches), None) for start in range(0, batches, step or 1)]
    size = size_of(path)
    if form.kind == "lines" and form.compression is None and size > part_bytes:
        return form, [(start, min(start + part_bytes, size), None) for start in range(0, size, part_bytes)]
    return form, [(0, None, None)]
