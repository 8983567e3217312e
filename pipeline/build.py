"""The whole Beam graph: text -> rows on disk, rejects beside them, the manifest last."""

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from oddsmill.pipeline.output.seen import add_seen
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


def build(p: beam.Pipeline, resolved: ResolvedRun, spill: int | None = None, pool: int | None = None) -> None:
    """Adds the graph of a run to a pipeline.

    A part of a file becomes blocks of pairs keyed by shard in one step. What a pair's shard and
    place there are is decided by a hash of its texts; each shard is sorted and packed by one worker.

    Args:
      spill: where the workers are threads of this process, the key of `open_spill`: the blocks wait on disk.
      pool: the key of the processes of ours that the work is spread over, if it is.
    """
    made = (
        p
        | "Inputs" >> beam.Create(list(enumerate(resolved.inputs)), reshuffle=True)
        | "Divide" >> beam.ParDo(DivideInputs())
        | "SpreadParts" >> beam.Reshuffle()
        | "CountRows" >> beam.ParDo(CountRows(resolved))
        | "ByInput" >> beam.GroupByKey()
        | "NumberRows"
        >> beam.ParDo(NumberRows(resolved))  # a row's number needs the counts of all parts before its own
        | "SpreadNumbered" >> beam.Reshuffle()
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
    seen = made.seen | "Seen" >> beam.CombineGlobally(add_seen)
    _ = (
        p
        | "Last" >> beam.Create([None])
        | "WriteManifest" >> beam.ParDo(WriteManifest(resolved), AsSingleton(seen), AsList(reports), AsList(drops))
    )
