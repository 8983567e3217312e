"""The transforms of the graph: each loads what it needs in `setup` and calls a pure function; drops go to `rejects`."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from oddsmill.pipeline import progress
from oddsmill.pipeline.chain import Chain, Made, ShardKey, fingerprint_rows
from oddsmill.pipeline.dataflow import check_libraries
from oddsmill.pipeline.input.changes import changed, check_unchanged, while_unchanged
from oddsmill.pipeline.input.kinds.kind import CountedPart, NumberedPart, Part
from oddsmill.pipeline.input.parts import Input, count_part, divide, number_parts, read_batches
from oddsmill.pipeline.input.sources import check_nothing_new
from oddsmill.pipeline.output.accounts import FileDrops, make_accounts, publish_accounts
from oddsmill.pipeline.output.folder import publishing, shard_name
from oddsmill.pipeline.output.manifest import make_manifest
from oddsmill.pipeline.output.rejects import write_rejects
from oddsmill.pipeline.output.seen import Seen
from oddsmill.pipeline.output.shards import ShardReport, write_shard
from oddsmill.pipeline.output.spill import BlockRef, read_block, write_block
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import MANIFEST_NAME, TOKENIZER_FOLDER
from oddsmill.schemas.stores import fetch_folder


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

    def __init__(self, resolved: ResolvedRun, spill: int | None):
        self._resolved, self._spill, self._shared = resolved, spill, Shared()

    def setup(self) -> None:
        # Where nothing else is said there is a process for each core, so a call must not spread over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = os.path.join(self._resolved.output, TOKENIZER_FOLDER)
        self._tokenizer = self._shared.acquire(lambda: load_tokenizer(fetch_folder(folder)))

    def start_bundle(self) -> None:
        self._chain = Chain(self._resolved, self._tokenizer)

    def process(self, part: NumberedPart) -> Iterator[Any]:
        path, digest = part.part.file.path, 0
        with while_unchanged(path, self._resolved.states) as was_touched:
            for batch in read_batches(part):
                progress.count(rows_read=len(batch))
                made = self._chain.add(batch)
                digest += made.digest
                yield from self._elements(made)
            if was_touched() and digest != sum(map(fingerprint_rows, read_batches(part))):
                raise changed(path, "its content was another one meanwhile")

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(_in_global_window, self._elements(self._chain.finish()))

    def _elements(self, made: Made) -> Iterator[Any]:
        for key, block in made.blocks:
            yield key, write_block(block, self._spill)
        for rejects in made.rejects:
            yield TaggedOutput("rejects", rejects)
        if made.seen is not None:
            yield TaggedOutput("seen", made.seen)


class WriteShard(beam.DoFn):
    """All blocks of a shard -> its file and a `ShardReport`; tag `rejects`: duplicates, in blocks."""

    def __init__(self, resolved: ResolvedRun):
        self._resolved = resolved

    def setup(self) -> None:
        check_libraries(self._resolved.libraries)

    def process(self, element: tuple[ShardKey, Iterable[bytes | BlockRef]]) -> Iterator[Any]:
        shard, blocks = element
        report, rejects = _write_shard(self._resolved, shard, map(read_block, blocks))
        yield report
        for block in rejects:
            yield TaggedOutput("rejects", block)


class WriteEmptyShard(beam.DoFn):
    """A shard -> its file without a row and a `ShardReport`, where no report says that it is written."""

    def __init__(self, resolved: ResolvedRun):
        self._resolved = resolved

    def setup(self) -> None:
        check_libraries(self._resolved.libraries)

    def process(self, shard: ShardKey, reports: list[ShardReport]) -> Iterator[ShardReport]:
        split, index = shard
        if shard_name(split, index, self._resolved.num_shards[split]) not in {report.shard.name for report in reports}:
            yield _write_shard(self._resolved, shard, [])[0]


def _write_shard(resolved: ResolvedRun, shard: ShardKey, blocks: Iterable[bytes]) -> tuple[ShardReport, Iterable[Any]]:
    split, index = shard
    return write_shard(
        blocks,
        split=split,
        index=index,
        count=resolved.num_shards[split],
        config=resolved.config,
        output=resolved.output,
        tokenizer=resolved.tokenizer,
        paths=resolved.paths,
        lock=resolved.lock,
    )


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

    def __init__(self, resolved: ResolvedRun):
        self._resolved = resolved

    def process(self, _: None, seen: Seen, reports: list[ShardReport], drops: list[FileDrops]) -> Iterator[None]:
        check_unchanged(self._resolved.states)
        check_nothing_new(self._resolved.config.sources, self._resolved.inputs, self._resolved.output)
        accounts = make_accounts(self._resolved.paths, seen, drops)
        manifest = make_manifest(self._resolved, seen, reports, accounts)
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
