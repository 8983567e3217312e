"""The work on the rows of a bundle, in this process or spread over the workers of a pool."""

from collections.abc import Sequence
from typing import Protocol

from oddsmill.pipeline.chain import Chain, Made
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.workers.pool import WorkerPool


class Work(Protocol):
    """Takes batches of rows, each with the number of its part; what was made of them comes with that number."""

    def add(self, batch: Sequence[RawRow], part: int) -> Sequence[tuple[int, Made]]:
        """Takes a batch; returns what was made meanwhile, of this batch or of earlier ones."""

    def drain(self) -> Sequence[tuple[int, Made]]:
        """Returns what was made of all batches that were taken."""

    def finish(self) -> Sequence[tuple[int, Made]]:
        """Returns all that is left, and the accounts of the rows."""


class OwnWork:
    """The work in this process."""

    def __init__(self, chain: Chain):
        self._chain = chain

    def add(self, batch: Sequence[RawRow], part: int) -> Sequence[tuple[int, Made]]:
        return [(part, self._chain.add(batch))]

    def drain(self) -> Sequence[tuple[int, Made]]:
        return []

    def finish(self) -> Sequence[tuple[int, Made]]:
        return [(0, self._chain.finish())]


class PoolWork:
    """The work of a pool, which is this bundle's alone."""

    def __init__(self, pool: WorkerPool):
        self._pool = pool
        self.finish()  # a bundle that failed has left something, and is tried again

    def add(self, batch: Sequence[RawRow], part: int) -> Sequence[tuple[int, Made]]:
        file = batch[0].origin.file
        numbers = [row.origin.row for row in batch]
        contents, problems = [row.content for row in batch], [row.problem for row in batch]
        return self._pool.submit("rows", file, numbers, contents, problems, note=part)

    def drain(self) -> Sequence[tuple[int, Made]]:
        return self._pool.drain()

    def finish(self) -> Sequence[tuple[int, Made]]:
        return [*self.drain(), *((0, made) for made in self._pool.ask_each("finish"))]
