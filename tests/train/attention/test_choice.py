"""The choice of a run's mechanism, and the refusal of one that cannot do it."""

from typing import get_args

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.choice import MECHANISMS, choose_mechanism
from oddsmill.train.attention.mechanism import Workload
from oddsmill.train.config.compute import AttentionMechanism


def chosen(requested, platform, **changes):
    fitting = {"dtype": "bfloat16", "row_lengths": (2048,), "head_dim": 64}
    return choose_mechanism(requested, Workload(platform=platform, **fitting | changes)).name


WINDOW, SOFTCAP = {"windows": (512, 512)}, {"windows": (4096, None), "softcap": 50.0}


@pytest.mark.parametrize(
    ("platform", "case", "expected"),
    [
        ("cpu", {}, "xla"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"compute_capability": "9.0"}, "cudnn"),
        ("gpu", {"compute_capability": "10.0"}, "cudnn"),
        ("gpu", {"compute_capability": "7.5"}, "xla"),
        ("gpu", {"compute_capability": "gfx942"}, "xla"),
        ("gpu", {"dtype": "float32"}, "xla"),
        ("gpu", SOFTCAP, "xla"),
        ("gpu", WINDOW, "cudnn"),
        ("gpu", {"head_dim": 256}, "xla"),
        ("tpu", {}, "splash"),
        ("tpu", {"dtype": "float32"}, "splash"),
        ("tpu", SOFTCAP, "splash"),  # its window is longer than a row
        ("tpu", WINDOW, "xla"),
        ("tpu", {"row_lengths": (2048, 1000)}, "xla"),
    ],
)
def test_auto_takes_the_kernel_of_the_platform_that_can_do_it(platform, case, expected):
    assert chosen("auto", platform, **case) == expected


@pytest.mark.parametrize(
    ("mechanism", "platform", "case", "problem"),
    [
        ("splash", "gpu", {}, "it is for TPUs; the devices are GPUs"),
        ("cudnn", "cpu", {}, "it is for GPUs; the devices are CPUs"),
        ("pallas", "tpu", {}, "it is for GPUs; the devices are TPUs"),
        ("splash", "tpu", WINDOW, "sliding_window in config.json"),
        ("splash", "tpu", {"row_lengths": (2048, 2000)}, "rows have 2048, 2000 slots; it wants a multiple of 128"),
        ("cudnn", "gpu", {"dtype": "float32"}, "--compute_dtype=float32"),
        ("pallas", "gpu", {"compute_capability": "7.5"}, "compute capability 8.0 and later; the devices have 7.5"),
        ("cudnn", "gpu", SOFTCAP, "attn_logit_softcapping"),
        ("cudnn", "gpu", {"head_dim": 256}, "heads have 256 dimensions"),
        ("pallas", "gpu", {"head_dim": 96}, "heads have 96 dimensions; it wants a power of two"),
        ("xla", "cpu", {"row_lengths": (64,)}, "it wants a multiple of 64 above it"),
        ("xla", "cpu", {"dropout": 0.1}, "it has no attention dropout"),
    ],
)
def test_a_mechanism_that_cannot_do_it_is_refused_by_name(mechanism, platform, case, problem):
    with pytest.raises(Refused) as refusal:
        chosen(mechanism, platform, **case)
    assert f"--attn_mechanism={mechanism}: " in str(refusal.value)
    assert problem in str(refusal.value)


def test_what_is_asked_for_and_possible_is_taken():
    everywhere = {"xla", "vanilla"}
    kernels = {"cpu": set(), "gpu": {"cudnn", "pallas"}, "tpu": {"splash"}}

    def is_possible(name, platform):
        try:
            return chosen(name, platform, row_lengths=(512,)) == name
        except Refused:
            return False

    possible = {platform: {name for name in MECHANISMS if is_possible(name, platform)} for platform in kernels}
    assert possible == {platform: everywhere | kernels[platform] for platform in kernels}


def test_the_setting_knows_the_names_of_the_table():
    assert set(get_args(AttentionMechanism)) == {"auto", *MECHANISMS}
