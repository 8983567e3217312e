"""The bars of the report, against a count value by value."""

import numpy as np
import pytest

from oddsmill.pipeline.commands.charts import bar_shares, histogram


@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_in_the_bar_of_its_bounds(seed: int):
    rng = np.random.default_rng(seed)
    values = np.round(rng.standard_cauchy(5000) * 30).astype(np.int64)
    bars = histogram(values)
    assert len(bars) <= 42
    assert [bar.number for bar in bars] == [int(((values >= bar.low) & (values <= bar.high)).sum()) for bar in bars]
    assert sum(bar.number for bar in bars) == 5000
    assert (bars[0].low, bars[-1].high) == (values.min(), values.max())
    assert max(bar.height for bar in bars) == 1
    assert not any(bar.low < 0 <= bar.high for bar in bars)


def test_few_values_have_a_bar_each():
    assert [(bar.low, bar.high, bar.number) for bar in histogram(np.array([3, 5, 3]))] == [
        (3, 3, 2),
        (4, 4, 0),
        (5, 5, 1),
    ]
    assert histogram(np.zeros(0, np.int64)) == []


def test_shares_are_of_the_whole():
    assert bar_shares({"a": 1, "b": 3}) == [("a", 0.25), ("b", 0.75)]
    assert bar_shares({"a": 0}) == [("a", 0.0)]
