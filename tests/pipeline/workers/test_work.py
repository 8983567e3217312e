"""The work of a pool is that of one process: the same calls, the same parts, the same sums."""

from typing import Any

from oddsmill.pipeline.chain import Made
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.workers.work import OwnWork, PoolWork
from oddsmill.schemas.drops import Origin

ROWS = [RawRow(Origin(3, 7), b"seven"), RawRow(Origin(3, 8), b"", "cut short")]


class Recorder:
    """A chain, and a pool of two processes, that note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def add(self, batch: Any) -> Made:
        self.asked.append(batch)
        return Made(1, [], [])

    def finish(self) -> Made:
        self.asked.append("finish")
        return Made(0, [], [])

    def submit(self, *job: Any, note: int) -> list[tuple[int, Made]]:
        self.asked.append((*job, note))
        return []

    def drain(self) -> list[tuple[int, Made]]:
        return [(5, Made(1, [], []))]

    def ask_each(self, kind: str) -> list[Made]:
        self.asked.append(kind)
        return [Made(2, [], []), Made(3, [], [])]


def test_this_process_makes_a_batch_at_once():
    chain = Recorder()
    work = OwnWork(chain)  # type: ignore[arg-type]
    assert [*work.add(ROWS, 5), *work.drain(), *work.finish()] == [(5, Made(1, [], [])), (0, Made(0, [], []))]
    assert chain.asked == [ROWS, "finish"]


def test_a_pool_gets_the_plain_parts_of_the_rows_and_begins_anew():
    pool = Recorder()
    work = PoolWork(pool)  # type: ignore[arg-type]
    assert pool.asked == ["finish"]  # what a bundle that failed has left
    assert work.add(ROWS, 5) == []
    assert pool.asked[1:] == [("rows", 3, [7, 8], [b"seven", b""], [None, "cut short"], 5)]
    assert work.finish() == [(5, Made(1, [], [])), (0, Made(2, [], [])), (0, Made(3, [], []))]
