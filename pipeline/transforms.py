"""The transforms of the graph: each loads what it needs in `setup` and calls a pure function; drops go to `rejects`."""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from oddsmill.pipeline import progress
from oddsmill.pipeline.dataflow import check_libraries
from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.formats.pairs import Pair, PairIds
from oddsmill.pipeline.input.changes import changed, check_unchanged, while_unchanged
from oddsmill.pipeline.input.kinds.kind import CountedPart, NumberedPart, Part
from oddsmill.pipeline.input.parts import Input, count_part, divide, number_parts, read_batches
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sources import check_nothing_new
from oddsmill.pipeline.output.accounts import FileDrops, make_accounts, publish_accounts
from oddsmill.pipeline.output.folder import publishing, shard_name
from oddsmill.pipeline.output.manifest import make_manifest
from oddsmill.pipeline.output.rejects import RejectBlocks, write_rejects
from oddsmill.pipeline.output.seen import Seen, see_columns
from oddsmill.pipeline.output.shards import PlacedPair, ShardReport, encode_placed_pairs, write_shard
from oddsmill.pipeline.output.spill import BlockRef, read_block, write_block
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.drops import Dropped, Reject, dropping_errors
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import MANIFEST_NAME, TOKENIZER_FOLDER, Split
from oddsmill.schemas.stores import fetch_folder

Parsed = list[tuple[RawRow, Pair]]
ShardKey = tuple[Split, int]
_BATCHES_AHEAD = 2
_BLOCK_BYTES = 8 << 20  # ids in blocks of some hundred kB a shard: compressed as well as larger ones


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


class ReadRows(beam.DoFn):
    """A part of a file -> batches of its rows; tag `seen`: how many, and their fingerprint."""

    def __init__(self, resolved: ResolvedRun):
        self._states = resolved.states

    def process(self, part: NumberedPart) -> Iterator[Any]:
        path, whole = part.part.file.path, 0
        with while_unchanged(path, self._states) as was_touched:
            for batch in read_batches(part):
                progress.count(rows_read=len(batch))
                digest = _fingerprint(batch)  # before a user's function alters the rows
                whole += digest
                yield batch
                yield TaggedOutput("seen", Seen({part.part.input: len(batch)}, digest))
            if was_touched() and whole != sum(map(_fingerprint, read_batches(part))):
                raise changed(path, "its content was another one meanwhile")


def _fingerprint(batch: list[RawRow]) -> int:
    """Returns the sum of the fingerprints of some rows, which does not depend on their order."""
    return sum(keys.fingerprint(row.as_bytes()) for row in batch)


class ParseRows(beam.DoFn):
    """A batch of rows -> their pairs; tags `rejects`, and `seen`: pairs of a row beyond its first, columns not read."""

    def __init__(self, resolved: ResolvedRun):
        self._rules, self._sources = resolved.rules, resolved.sources

    def process(self, batch: list[RawRow]) -> Iterator[Any]:
        parsed: Parsed = []
        extra_pairs, not_read = Counter[int](), Counter[str]()
        for row in batch:
            try:
                pairs = self._rules.parse_row(row, source=self._sources[row.origin.file], not_read=not_read)
            except Dropped as dropped:
                yield _reject(row, dropped)
                continue
            parsed += [(row, pair) for pair in pairs]
            if len(pairs) > 1:
                extra_pairs[row.origin.file] += len(pairs) - 1
        if extra_pairs or not_read:
            yield TaggedOutput("seen", Seen(extra_pairs=dict(extra_pairs), not_read=see_columns(not_read)))
        if parsed:
            yield parsed


class TokenizePairs(beam.DoFn):
    """Tokenizes a batch of pairs; yields blocks of them by shard, and drops under the tag `rejects`.

    The tokenizer is the copy in the output folder: workers need no other file of the launcher's. Up to two
    batches are tokenized in threads, so that reading, parsing and hashing go on while the tokenizer, which needs no
    interpreter lock, has the cores.
    """

    def __init__(self, resolved: ResolvedRun, spill: int | None):
        self._config, self._num_shards, self._shared, self._spill = (
            resolved.config,
            resolved.num_shards,
            Shared(),
            spill,
        )
        self._rules, self._output, self._vocab_size = resolved.rules, resolved.output, resolved.tokenizer.vocab_size

    def setup(self) -> None:
        # Where nothing else is said there is a process for each core, so a call must not spread over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = os.path.join(self._output, TOKENIZER_FOLDER)
        self._tokenizer = self._shared.acquire(lambda: load_tokenizer(fetch_folder(folder)))
        self._threads = ThreadPoolExecutor(_BATCHES_AHEAD)

    def start_bundle(self) -> None:
        self._ahead: deque[Future[list[tuple[ShardKey, PlacedPair] | TaggedOutput]]] = deque()
        self._blocks: dict[ShardKey, list[PlacedPair]] = defaultdict(list)
        self._bytes = 0

    def process(self, parsed: Parsed) -> Iterator[Any]:
        self._ahead.append(self._threads.submit(self._tokenize, parsed))
        if len(self._ahead) > _BATCHES_AHEAD:
            yield from self._gather()

    def finish_bundle(self) -> Iterator[Any]:
        while self._ahead:
            yield from map(_in_global_window, self._gather())
        yield from map(_in_global_window, self._flush())

    def teardown(self) -> None:
        self._threads.shutdown()

    def _tokenize(self, parsed: Parsed) -> list[tuple[ShardKey, PlacedPair] | TaggedOutput]:
        placed: list[tuple[ShardKey, PlacedPair] | TaggedOutput] = []
        texts = [pair for _, pair in parsed]
        for (row, pair), ids in zip(
            parsed, tokenize_batch(texts, self._tokenizer, self._rules, self._config), strict=True
        ):
            try:
                placed.append(_reject(row, ids) if isinstance(ids, Dropped) else self._place(row, pair, ids))
            except Dropped as dropped:
                placed.append(_reject(row, dropped))
        progress.count(pairs=sum(not isinstance(item, TaggedOutput) for item in placed))
        return placed

    @dropping_errors
    def _place(self, row: RawRow, pair: Pair, ids: PairIds) -> tuple[ShardKey, PlacedPair]:
        """Decides where a pair is stored."""
        identity = keys.pair_id(pair)
        place = keys.place(pair, identity, row.origin, self._config, self._num_shards)
        stored = PlacedPair(
            rank=place.rank,
            id=identity,
            ids=ids.as_bytes(),
            lengths=(len(ids.prompt), len(ids.chosen), len(ids.rejected)),
            truncated=int(ids.truncated),
            notes=int(ids.notes),
            prompt_id=keys.prompt_id(pair),
            origin=row.origin,
            raw=row.as_text() if self._config.dedup == "exact" else "",
            unscored=ids.unscored_as_bytes(),
        )
        return (place.split, place.shard), stored

    def _gather(self) -> Iterator[Any]:
        """Waits for the oldest batch; yields its rejects, and blocks once they are large enough."""
        for item in self._ahead.popleft().result():
            if isinstance(item, TaggedOutput):
                yield item
                continue
            key, pair = item
            self._blocks[key].append(pair)
            self._bytes += len(pair.ids) + len(pair.raw)
        if self._bytes >= _BLOCK_BYTES:
            yield from self._flush()

    def _flush(self) -> Iterator[tuple[ShardKey, bytes | BlockRef]]:
        blocks, self._blocks, self._bytes = self._blocks, defaultdict(list), 0
        for key, pairs in blocks.items():
            yield key, write_block(encode_placed_pairs(pairs, vocab_size=self._vocab_size), self._spill)


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


class BlockRejects(beam.DoFn):
    """Rejects -> (number of their file, block of them), so that the shuffle holds no raw text as it is."""

    def __init__(self, resolved: ResolvedRun):
        self._paths = resolved.paths

    def start_bundle(self) -> None:
        self._blocks = RejectBlocks(self._paths)

    def process(self, reject: Reject) -> Iterator[tuple[int, bytes]]:
        self._blocks.add(reject)
        yield from self._blocks.full()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(_in_global_window, self._blocks.rest())


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


def _reject(row: RawRow, dropped: Dropped) -> TaggedOutput:
    progress.count(drops=1)
    return TaggedOutput("rejects", Reject(row.origin, dropped.reason, dropped.detail, row.as_text()))


def _in_global_window(element: Any) -> Any:
    """Wraps an element as `finish_bundle` must yield it."""
    if isinstance(element, TaggedOutput):
        return TaggedOutput(element.tag, GlobalWindows.windowed_value_at_end_of_window(element.value))
    return GlobalWindows.windowed_value_at_end_of_window(element)
