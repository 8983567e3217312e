"""The transforms of the graph: each loads what it needs in `setup` and calls a pure function; drops go to `rejects`."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from oddsmill.pipeline import progress
from oddsmill.pipeline.chain import Chain, Made, Written, fingerprint_rows, load_copy, write_shard_of
from oddsmill.pipeline.dataflow import check_libraries
from oddsmill.pipeline.formats.keys import ShardKey
from oddsmill.pipeline.input.changes import changed, check_unchanged, while_unchanged
from oddsmill.pipeline.input.kinds.kind import CountedPart, NumberedPart, Part
from oddsmill.pipeline.input.parts import Input, count_part, divide, number_parts, read_batches
from oddsmill.pipeline.input.sources import check_nothing_new
from oddsmill.pipeline.output.accounts import FileDrops, make_accounts, publish_accounts
from oddsmill.pipeline.output.blocks import Compression
from oddsmill.pipeline.output.folder import publishing, shard_name
from oddsmill.pipeline.output.manifest import make_manifest
from oddsmill.pipeline.output.rejects import write_rejects
from oddsmill.pipeline.output.seen import Seen, add_seen
from oddsmill.pipeline.output.shards import ShardReport
from oddsmill.pipeline.output.spill import BlockRef, read_block, write_block
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.workers.pool import pool_of
from oddsmill.pipeline.workers.work import OwnWork, PoolWork, Work
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import MANIFEST_NAME


class DivideInputs(beam.DoFn):
    """Divides a numbered input into parts, each of which one worker reads at a time."""

    def process(self, element: tuple[int, Input]) -> Iterator[Any]:
        number, source = element
        try:
            yield from divide(number, source)
        except Refused:
            check_unchanged(dict(zip(source.files, source.states, strict=True)))  # one that was cut looks damaged
            raise


class CountRows(beam.DoFn):
    """Counts the rows of a part; yields it under the number of its input."""

    def __init__(self, resolved: ResolvedRun):
        self._states = resolved.states

    def process(self, part: Part) -> Iterator[Any]:
        with while_unchanged(part.file.path, self._states) as was_touched:
            counted = count_part(part)
            if was_touched() and count_part(part) != counted:
                raise changed(part.file.path, "its content was another one meanwhile")
            yield part.input, counted


class NumberRows(beam.DoFn):
    """Gives each part of an input the number of its first row; leaves out parts without a row that is wanted."""

    def __init__(self, resolved: ResolvedRun):
        self._inputs = resolved.inputs

    def process(self, element: tuple[int, Iterable[CountedPart]]) -> Iterator[Any]:
        number, parts = element
        yield from number_parts(self._inputs[number], parts)


class MakePairs(beam.DoFn):
    """A part of a file -> blocks of its pairs by shard; tags `rejects`, in blocks by file, and `seen`.

    The tokenizer is the copy in the output folder: workers need no other file of the launcher's.
    """

    def __init__(self, resolved: ResolvedRun, spill: int | None, pool: int | None):
        self._resolved, self._spill, self._pool, self._shared = resolved, spill, pool, Shared()

    def setup(self) -> None:
        # Where nothing else is said there is a process for each core, so a call must not spread over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if self._pool is None:
            self._tokenizer = self._shared.acquire(lambda: load_copy(self._resolved))

    def start_bundle(self) -> None:
        self._digests = Counter[int]()
        self._work: Work
        if self._pool is None:
            compression: Compression = "zstd" if self._spill is None else "lz4"
            self._work = OwnWork(Chain(self._resolved, self._tokenizer, compression))
        else:
            self._work = PoolWork(pool_of(self._pool))

    def process(self, part: NumberedPart) -> Iterator[Any]:
        path, number = part.part.file.path, len(self._digests) + 1
        self._digests[number] = 0
        with while_unchanged(path, self._resolved.states) as was_touched:
            for batch in read_batches(part):
                progress.count(rows_read=len(batch))
                yield from self._elements(self._work.add(batch, number))
            if was_touched():
                yield from self._elements(self._work.drain())
                if self._digests[number] != sum(map(fingerprint_rows, read_batches(part))):
                    raise changed(path, "its content was another one meanwhile")

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(_in_global_window, self._elements(self._work.finish()))

    def _elements(self, made_of_parts: Iterable[tuple[int, Made]]) -> Iterator[Any]:
        for number, made in made_of_parts:
            self._digests[number] += made.digest
            for key, block in made.blocks:
                yield key, write_block(block, self._spill)
            for rejects in made.rejects:
                yield TaggedOutput("rejects", rejects)
            if made.seen is not None:
                yield TaggedOutput("seen", made.seen)


class WriteShard(beam.DoFn):
    """All blocks of a shard -> its file and a `ShardReport`; tag `rejects`: duplicates, in blocks."""

    def __init__(self, resolved: ResolvedRun, pool: int | None):
        self._resolved, self._pool = resolved, pool

    def setup(self) -> None:
        check_libraries(self._resolved.libraries)

    def start_bundle(self) -> None:
        self._written: dict[int, Written] = {}
        self._shards = 0
        if self._pool is not None:
            pool_of(self._pool).drain()  # what a bundle that failed has left

    def process(self, element: tuple[ShardKey, Iterable[bytes | BlockRef]]) -> Iterator[Any]:
        shard, blocks = element
        if self._pool is None:
            yield from _reported(write_shard_of(self._resolved, shard, map(read_block, blocks)))
        else:
            self._shards += 1  # shards are told of in this order, in whatever one they are written
            self._written.update(pool_of(self._pool).submit("shard", shard, list(blocks), note=self._shards))

    def finish_bundle(self) -> Iterator[Any]:
        if self._pool is not None:
            self._written.update(pool_of(self._pool).drain())
        for _, written in sorted(self._written.items()):
            yield from map(_in_global_window, _reported(written))


class WriteEmptyShard(beam.DoFn):
    """A shard -> its file without a row and a `ShardReport`, where no report says that it is written."""

    def __init__(self, resolved: ResolvedRun):
        self._resolved = resolved

    def setup(self) -> None:
        check_libraries(self._resolved.libraries)

    def process(self, shard: ShardKey, reports: list[ShardReport]) -> Iterator[ShardReport]:
        split, index = shard
        if shard_name(split, index, self._resolved.num_shards[split]) not in {report.shard.name for report in reports}:
            yield write_shard_of(self._resolved, shard, [])[0]


def _reported(written: Written) -> Iterator[Any]:
    report, rejects = written
    yield report
    for block in rejects:
        yield TaggedOutput("rejects", block)


class WriteRejects(beam.DoFn):
    """The rejects of an input file -> a file of them, and how many of each reason."""

    def __init__(self, resolved: ResolvedRun):
        self._output, self._paths, self._lock = resolved.output, resolved.paths, resolved.lock

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[FileDrops]:
        file, blocks = element
        written = write_rejects(blocks, output=self._output, number=file, path=self._paths[file], lock=self._lock)
        yield FileDrops(file, *written)


class WriteManifest(beam.DoFn):
    """The reports of all other steps -> manifest.json; the account of each file is left for the launcher.

    It comes last: what was read is what was there at the start, or there is no manifest.
    """

    def __init__(self, resolved: ResolvedRun, pool: int | None):
        self._resolved, self._pool = resolved, pool

    def process(self, _: None, parts: list[Seen], reports: list[ShardReport], drops: list[FileDrops]) -> Iterator[None]:
        check_unchanged(self._resolved.states)
        check_nothing_new(self._resolved.config.sources, self._resolved.inputs, self._resolved.output)
        seen = add_seen(parts)
        accounts = make_accounts(self._resolved.paths, seen, drops)
        engine = self._resolved.engine if self._pool is None else pool_of(self._pool).engine
        manifest = make_manifest(replace(self._resolved, engine=engine), seen, reports, accounts)
        written = [each.digests for each in reports] + [each.digests for each in drops]
        digests = dict(sorted(digest for each in written for digest in each.items()))
        publish_accounts(self._resolved.output, accounts, digests, self._resolved.lock)
        target = os.path.join(self._resolved.output, MANIFEST_NAME)
        with publishing(target, self._resolved.lock) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(manifest.to_json())
        yield from ()


def _in_global_window(element: Any) -> Any:
    """Wraps an element as `finish_bundle` must yield it."""
    if isinstance(element, TaggedOutput):
        return TaggedOutput(element.tag, GlobalWindows.windowed_value_at_end_of_window(element.value))
    return GlobalWindows.windowed_value_at_end_of_window(element)
