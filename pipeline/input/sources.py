"""The input: the files and datasets that the settings name."""

import dataclasses
import glob
import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.changes import state_of
from oddsmill.pipeline.input.globs import find_local_matches
from oddsmill.pipeline.input.hub import find_hub_splits, is_hub_dataset
from oddsmill.pipeline.input.kinds.kind import COMPRESSED_INFLATION
from oddsmill.pipeline.input.kinds.recognition import recognize
from oddsmill.pipeline.input.parts import Input, count_rows, divide
from oddsmill.pipeline.input.saved import find_saved_splits, is_saved_dataset
from oddsmill.pipeline.input.splits import slice_rows
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.files import check_name
from oddsmill.schemas.stores import find_matches, is_file, is_remote, lies_in, size_of
from oddsmill.schemas.text.redaction import redact_text


def find_inputs(source: SourceConfig) -> list[Input]:
    """Returns what the settings name, in the order given, a glob's files in alphabetical order, each once.

    Raises:
      Refused: A path names nothing, a file is of a kind that is not read, or a split, slice, configuration or
        revision is not there or has no meaning.
    """
    return [_describe(each) for each in _list_inputs(source)]


def check_nothing_new(sources: Sequence[SourceConfig], inputs: Sequence[Input], output: str) -> None:
    """Fails the run if its settings name files now that were not there at the start, but for its own in `output`.

    Raises:
      RunFailed: Names the first such file.
      Refused: As `find_inputs`.
    """
    known = {file for each in inputs for file in each.files}
    for source in sources:
        # The files of a dataset of the hub are those of a commit.
        paths = [path for path in source.paths if not is_hub_dataset(path)]
        if not paths:
            continue
        for each in _list_inputs(dataclasses.replace(source, path=paths, name=None, revision=None)):
            for file in each.files:
                if file not in known and not lies_in(file, output):
                    raise RunFailed(
                        f"{file} appeared while the input was read, and --source.path names it; run again when nobody "
                        "writes the input"
                    )


def _list_inputs(source: SourceConfig) -> list[Input]:
    """Lists what the settings name, as it is now; nothing is read of the rows."""
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
            found += [Input(path=redact_text(file), files=[file]) for file in find_files([path])]
            continue
        found += [Input(path=name, files=files, wanted=wanted) for name, files, wanted in splits]
    for setting, applies in apply.items():
        if getattr(source, setting) is not None and not applies:
            kind = "a hub dataset or a folder of save_to_disk" if setting == "split" else "a hub dataset"
            raise Refused(f"--source.{setting}={getattr(source, setting)} is for {kind}, and not every path is one")
    for each in found:
        for name in (each.path, *each.files):
            check_name(name, "source.path")
    return _once(found)


def find_files(paths: list[str]) -> list[str]:
    """Returns the files that paths and globs name, in the order given, a glob's in alphabetical order, each once.

    Raises:
      Refused: A path is no file, or a glob matches none.
    """
    found: list[str] = []
    for path in paths:
        if not is_remote(path) and os.path.isdir(path):
            raise Refused(f"--source.path={path} is a folder; give its files, for instance {path}/*.jsonl")
        if is_file(path):
            found.append(path)
        elif glob.has_magic(path):
            matches = find_matches(path) if is_remote(path) else find_local_matches(path)
            if not matches:
                raise Refused(f"--source.path={path}: no file matches")
            found += matches
        else:
            raise Refused(f"--source.path={path}: no such file")
    return list(dict.fromkeys(found))


def _once(inputs: list[Input]) -> list[Input]:
    """Keeps each file once, by whatever names; slices of a split all stay, as `datasets` joins them."""
    seen: dict[tuple[tuple[str, ...], int], Input] = {}
    for index, each in enumerate(inputs):
        files = tuple(file if is_remote(file) else os.path.realpath(file) for file in each.files)
        seen.setdefault((files, index if each.wanted else -1), each)
    return list(seen.values())


def _describe(source: Input) -> Input:
    """Adds the size and the digest of an input; checks its slice, if counting its rows takes no reading of them."""
    with ThreadPoolExecutor(8) as pool:  # a store takes a while for each answer
        states = list(pool.map(state_of, source.files))  # before anything is read that is not looked at again
        files = list(pool.map(recognize, source.files))
        sizes = list(pool.map(size_of, source.files))
    share = 1.0
    if source.wanted and all(file.kind.is_counted_fast for file in files):
        rows = sum(map(count_rows, divide(0, source)))
        share = len(slice_rows(source.wanted, rows, source.path)) / rows
    text = sum(
        size * (file.kind.inflation if file.compression is None else COMPRESSED_INFLATION)
        for file, size in zip(files, sizes, strict=True)
    )
    digests = [state.digest for state in states]
    digest = digests[0]
    if len(digests) > 1 or source.wanted:
        digest = f"sha256:{hashlib.sha256(json.dumps([digests, source.wanted]).encode()).hexdigest()}"
    return dataclasses.replace(
        source, bytes=sum(sizes), text_bytes=math.ceil(text * share), digest=digest, states=states
    )
