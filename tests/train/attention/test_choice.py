"""Which mechanism a run takes, and what it says of one that cannot do it."""

from typing import get_args

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.choice import choose_mechanism, obstacle
from oddsmill.train.config.compute import AttentionMechanism
from tests.train.decoders import decoder_config


def chosen(requested, platform, *, dtype="bfloat16", row_lengths=(2048,), compute_capability=None, **model):
    return choose_mechanism(
        requested,
        decoder_config(**{"head_dim": 64, **model}),
        platform=platform,
        dtype=dtype,
        row_lengths=row_lengths,
        compute_capability=compute_capability,
    )


WINDOW = {"model_type": "mistral", "sliding_window": 512}
SOFTCAP = {"model_type": "gemma2", "query_pre_attn_scalar": 64, "sliding_window": 4096, "attn_logit_softcapping": 50.0}


@pytest.mark.parametrize(
    ("platform", "case", "expected"),
    [
        ("cpu", {}, "auto"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"compute_capability": "9.0"}, "cudnn"),
        ("gpu", {"compute_capability": "10.0"}, "cudnn"),
        ("gpu", {"compute_capability": "7.5"}, "auto"),
        ("gpu", {"compute_capability": "gfx942"}, "auto"),
        ("gpu", {"dtype": "float32"}, "auto"),
        ("gpu", SOFTCAP, "auto"),
        ("gpu", WINDOW, "cudnn"),
        ("gpu", {"head_dim": 256}, "auto"),
        ("tpu", {}, "splash"),
        ("tpu", {"dtype": "float32"}, "splash"),
        ("tpu", SOFTCAP, "splash"),  # its window is longer than a row
        ("tpu", WINDOW, "auto"),
        ("tpu", {"row_lengths": (2048, 1000)}, "auto"),
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
        ("xla", "cpu", {"attention_dropout": 0.1}, "it has no attention dropout"),
    ],
)
def test_a_mechanism_that_cannot_do_it_is_refused_by_name(mechanism, platform, case, problem):
    with pytest.raises(Refused) as refusal:
        chosen(mechanism, platform, **case)
    assert f"--attn_mechanism={mechanism}: " in str(refusal.value)
    assert problem in str(refusal.value)


def test_what_is_asked_for_and_possible_is_taken():
    possible = {
        platform: {
            mechanism
            for mechanism in get_args(AttentionMechanism)
            if obstacle(mechanism, decoder_config(head_dim=64), platform=platform, dtype="bfloat16", row_lengths=[512])
            is None
        }
        for platform in ("cpu", "gpu", "tpu")
    }
    everywhere = {"auto", "xla", "vanilla"}
    kernels = {"cpu": set(), "gpu": {"cudnn", "pallas"}, "tpu": {"splash"}}
    assert possible == {platform: everywhere | kernels[platform] for platform in possible}
