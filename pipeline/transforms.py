"""Beam's side of the pure functions: load in `setup`, call, route what is dropped to its tag."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.shared import Shared

from pipeline import keys
from pipeline.drops import Dropped, Reject
from pipeline.formats import PreferencePair, parse_row
from pipeline.ledger import write_rejects
from pipeline.output import publishing
from pipeline.plan import Plan
from pipeline.shards import PlacedPair, ShardReport, freeze, write_shard
from pipeline.sources import Part, RawRow, read_batches
from pipeline.summary import Seen, make_manifest
from pipeline.tokenization import tokenize_batch
from pipeline.tokenizer import TextTokenizer
from schemas.manifest import MANIFEST_NAME, TOKENIZER_FOLDER, Split

Parsed = list[tuple[RawRow, PreferencePair]]
ShardKey = tuple[Split, int]


class ReadRows(beam.DoFn):
    """A part of a file -> batches of its rows; tag `seen`: how many, and their fingerprint."""

    def process(self, part: Part) -> Iterator[Any]:
        for batch in read_batches(part):
            yield batch
            yield TaggedOutput("seen", Seen(len(batch), sum(keys.fingerprint(row.as_bytes()) for row in batch)))


def add_seen(parts: Iterable[Seen]) -> Seen:
    rows = digest = 0
    for part in parts:
        rows, digest = rows + part.rows, (digest + part.digest) % keys.FINGERPRINT_MODULUS
    return Seen(rows, digest)


class ParseRows(beam.DoFn):
    """A batch of rows -> those that are pairs; tag `rejects`."""

    def __init__(self, plan: Plan):
        self._format_name, self._fields = plan.format_name, plan.config.source.fields

    def process(self, batch: list[RawRow]) -> Iterator[Any]:
        parsed: Parsed = []
        for row in batch:
            try:
                parsed.append((row, parse_row(row, format_name=self._format_name, fields=self._fields)))
            except Dropped as dropped:
                yield _reject(row, dropped)
        if parsed:
            yield parsed


class TokenizePairs(beam.DoFn):
    """A batch of pairs -> (shard, block of tokenized pairs); tag `rejects`.

    The tokenizer is the copy in the output folder: workers need no other file of the launcher's.
    """

    def __init__(self, plan: Plan):
        self._config, self._num_shards, self._shared = plan.config, plan.num_shards, Shared()

    def setup(self) -> None:
        folder = os.path.join(self._config.output, TOKENIZER_FOLDER)
        self._tokenizer = self._shared.acquire(lambda: TextTokenizer(folder))

    def process(self, parsed: Parsed) -> Iterator[Any]:
        blocks: dict[ShardKey, list[PlacedPair]] = defaultdict(list)
        texts = [pair for _, pair in parsed]
        for (row, pair), ids in zip(parsed, tokenize_batch(texts, self._tokenizer, self._config), strict=True):
            if isinstance(ids, Dropped):
                yield _reject(row, ids)
                continue
            identity = keys.pair_id(pair)
            place = keys.place(pair, identity, row.origin, self._config, self._num_shards)
            blocks[place.split, place.shard].append(
                PlacedPair(
                    rank=place.rank,
                    id=identity,
                    ids=ids.as_bytes(),
                    lengths=(len(ids.prompt), len(ids.chosen), len(ids.rejected)),
                    truncated=int(ids.truncated),
                    boundary_merged=ids.boundary_merged,
                    prompt_id=keys.prompt_id(pair),
                    origin=row.origin,
                    raw=row.as_text() if self._config.dedup == "exact" else "",
                )
            )
        for key, pairs in blocks.items():
            yield key, freeze(pairs)


class WriteShard(beam.DoFn):
    """All blocks of a shard -> its file and a `ShardReport`; tag `rejects`: duplicates."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def process(self, element: tuple[ShardKey, Iterable[bytes]]) -> Iterator[Any]:
        (split, index), blocks = element
        report, rejects = write_shard(
            filter(None, blocks),
            split=split,
            index=index,
            count=self._plan.num_shards[split],
            config=self._plan.config,
            tokenizer=self._plan.tokenizer,
            paths=self._plan.paths,
        )
        yield report
        for reject in rejects:
            yield TaggedOutput("rejects", reject)


class WriteRejects(beam.DoFn):
    """The rejects of an input file -> a file of them, and how many of each reason."""

    def __init__(self, plan: Plan):
        self._output, self._paths = plan.config.output, plan.paths

    def process(self, element: tuple[int, Iterable[Reject]]) -> Iterator[dict[str, int]]:
        file, rejects = element
        yield write_rejects(rejects, output=self._output, number=file, path=self._paths[file])


class WriteManifest(beam.DoFn):
    """What all others report -> manifest.json."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def process(self, _: None, seen: Seen, reports: list[ShardReport], drops: list[dict[str, int]]) -> Iterator[None]:
        manifest = make_manifest(self._plan, seen, reports, drops)
        target = os.path.join(self._plan.config.output, MANIFEST_NAME)
        with publishing(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(manifest.to_json())
        yield from ()


def _reject(row: RawRow, dropped: Dropped) -> TaggedOutput:
    return TaggedOutput("rejects", Reject(row.origin, dropped.reason, dropped.detail, row.as_text()))
