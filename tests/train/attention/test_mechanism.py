"""The limits that every mechanism has in its record: platform, row lengths, dropout; and the age of GPUs."""

import pytest

from oddsmill.train.attention.mechanism import Mechanism, Workload, older_gpu

ROOFLESS = Mechanism(
    name="roofless",
    compute=lambda rows, scale, softcap: rows.query_BLNH,
    platform="tpu",
    length_multiple=128,
    shortest_row=256,
    limits=lambda workload: "it has no soft cap" if workload.softcap else None,
)
FITTING = Workload(platform="tpu", dtype="bfloat16", row_lengths=(256, 384), head_dim=64)


def test_a_workload_within_all_limits_has_no_obstacle():
    assert ROOFLESS.obstacle(FITTING) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dropout": 0.1}, "it has no attention dropout"),
        ({"platform": "gpu"}, "it is for TPUs; the devices are GPUs"),
        (
            {"row_lengths": (256, 300)},
            "rows have 256, 300 slots; it wants a multiple of 128 above it. Preprocess with such a --row_length",
        ),
        ({"row_lengths": (128,)}, "rows have 128 slots; it wants a multiple of 128 above it"),
        ({"softcap": 50.0}, "it has no soft cap"),
    ],
)
def test_an_obstacle_names_the_limit(change, problem):
    assert ROOFLESS.obstacle(Workload(**{**vars(FITTING), **change})).startswith(problem)


@pytest.mark.parametrize(
    ("windows", "has_window"), [((None, None), False), ((384, None), False), ((None, 383), True), ((), False)]
)
def test_a_window_counts_where_it_is_shorter_than_the_longest_row(windows, has_window):
    assert Workload(**{**vars(FITTING), "windows": windows}).has_window == has_window


@pytest.mark.parametrize(
    ("capability", "is_older"), [(None, False), ("8.0", False), ("10.0", False), ("7.5", True), ("gfx942", True)]
)
def test_gpus_before_ampere_and_of_others_are_older(capability, is_older):
    found = older_gpu(Workload(**{**vars(FITTING), "platform": "gpu", "compute_capability": capability}))
    assert (found is not None) == is_older and (found is None or capability in found)
