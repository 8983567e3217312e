"""The whole Beam graph: text -> rows on disk, rejects beside them, the manifest last."""

import apache_beam as beam
from apache_beam.pvalue import AsList

from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.transforms import (
    CountRows,
    DivideInputs,
    MakePairs,
    NumberRows,
    WriteEmptyShard,
    WriteManifest,
    WriteRejects,
    WriteShard,
)


def build(
    p: beam.Pipeline, resolved: ResolvedRun, spill: int | None = None, pool: int | None = None, *, alone: bool = False
) -> None:
    """Adds the graph of a run to a pipeline.

    A part of a file becomes blocks of pairs keyed by shard in one step. What a pair's shard and
    place there are is decided by a hash of its texts; each shard is sorted and packed by one worker.

    Args:
      spill: where the workers are threads of this process, the key of `open_spill`: the blocks wait on disk.
      pool: the key of the processes of ours that the work is spread over, if it is.
      alone: Beam has one worker, so that nothing need be spread over several: each spreading takes a tenth of a second.
    """
    made = (
        p
        | "Inputs" >> beam.Create(list(enumerate(resolved.inputs)), reshuffle=not alone)
        | "Divide" >> beam.ParDo(DivideInputs())
        | "SpreadParts" >> _Spread(alone)
        | "CountRows" >> beam.ParDo(CountRows(resolved))
        | "ByInput" >> beam.GroupByKey()
        | "NumberRows"
        >> beam.ParDo(NumberRows(resolved))  # a row's number needs the counts of all parts before its own
        | "SpreadNumbered" >> _Spread(alone)
        | "Pairs" >> beam.ParDo(MakePairs(resolved, spill, pool)).with_outputs("rejects", "seen", main="blocks")
    )
    shards = (
        made.blocks
        | "ByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.ParDo(WriteShard(resolved, pool)).with_outputs("rejects", main="reports")
    )
    # A shard that no pair fell to is written too. A Flatten before the GroupByKey would do the same, but the embedded
    # runner would hold all pairs twice.
    empty = (
        p
        | "EveryShard"
        >> beam.Create([(split, index) for split, n in resolved.num_shards.items() for index in range(n)])
        | "WriteEmptyShard" >> beam.ParDo(WriteEmptyShard(resolved), AsList(shards.reports))
    )
    reports = (shards.reports, empty) | "Reports" >> beam.Flatten()
    drops = (
        (made.rejects, shards.rejects)
        | "Rejects" >> beam.Flatten()
        | "ByFile" >> beam.GroupByKey()
        | "WriteRejects" >> beam.ParDo(WriteRejects(resolved))
    )
    _ = (
        p
        | "Last" >> beam.Create([None])
        | "WriteManifest"
        >> beam.ParDo(WriteManifest(resolved, pool), AsList(made.seen), AsList(reports), AsList(drops))
    )


class _Spread(beam.PTransform):
    """Spreads elements over the workers, where there are several."""

    def __init__(self, alone: bool):
        super().__init__()
        self._alone = alone

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements if self._alone else elements | beam.Reshuffle()
