"""Histograms and shares for the bars of the report. Pure functions."""

from typing import NamedTuple

import numpy as np

NUM_BARS = 40


class Bar(NamedTuple):
    """The number of values from `low` to `high` (included); `height` is that over the largest bar's number."""

    low: int
    high: int
    number: int
    height: float


def histogram(values: np.ndarray, *, num_bars: int = NUM_BARS) -> list[Bar]:
    """Counts integers in bars of equal width, at most `num_bars` and one more: no bar has values on both sides of 0.

    Values outside of the middle 99.8%, where these are few against the width, fall into the outermost bars, which
    then say so by their bounds.
    """
    if not len(values):
        return []
    least, most = int(values.min()), int(values.max())
    low, high = (int(np.floor(np.percentile(values, 0.1))), int(np.ceil(np.percentile(values, 99.9))))
    width = max(1, -(-(high - low + 1) // num_bars))
    first = low // width * width  # so that 0 begins a bar
    starts = list(range(first, high + 1, width))
    index = np.clip((values - first) // width, 0, len(starts) - 1)
    numbers = np.bincount(index, minlength=len(starts))
    bounds = [(start, start + width - 1) for start in starts]
    bounds[0] = (least, bounds[0][1])
    bounds[-1] = (bounds[-1][0], most)
    return [
        Bar(*bound, int(number), int(number) / int(numbers.max()))
        for bound, number in zip(bounds, numbers, strict=True)
    ]


def bar_shares(parts: dict[str, int]) -> list[tuple[str, float]]:
    """Returns each part's share of the whole."""
    whole = sum(parts.values())
    return [(name, number / whole if whole else 0.0) for name, number in parts.items()]


class LengthBias(NamedTuple):
    """The difference in length of chosen and rejected answers; the bars count chosen - rejected where
    that is not 0, in tokens."""

    chosen_longer: float
    equal: float
    rejected_longer: float
    mean_chosen: float
    mean_rejected: float
    median_difference: float
    bars: list[Bar]


def length_bias(lengths: np.ndarray) -> LengthBias:
    """Compares [pairs, 3] lengths of prompt, chosen, rejected; cut answers count as they are stored."""
    difference = lengths[:, 1] - lengths[:, 2]
    return LengthBias(
        chosen_longer=float((difference > 0).mean()),
        equal=float((difference == 0).mean()),
        rejected_longer=float((difference < 0).mean()),
        mean_chosen=float(lengths[:, 1].mean()),
        mean_rejected=float(lengths[:, 2].mean()),
        median_difference=float(np.median(difference)),
        bars=_difference_bars(difference[difference != 0]),
    )


def _difference_bars(values: np.ndarray) -> list[Bar]:
    """Counts differences other than 0 in bars, none of which has values of both signs."""
    bars = histogram(values - (values > 0))
    return [bar if bar.low < 0 else bar._replace(low=bar.low + 1, high=bar.high + 1) for bar in bars]
