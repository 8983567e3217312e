"""The FLOPs of a step by formula, against a count by hand."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from oddsmill.train.monitor.mfu import peak_flops
from oddsmill.train.monitor.mfu import step_flops as step_flops_of
from tests.train.decoders import decoder_config

# A row of one pair (prompt 2 tokens before the answers, chosen 2, rejected 1) and padding.
POSITION = np.array([[0, 1, 2, 3, 2, 0, 0]])
BRANCH = np.array([[1, 1, 2, 2, 3, 0, 0]])

step_flops = partial(step_flops_of, nll_scope="full")


def test_the_formula_equals_a_count_by_hand():
    config = decoder_config()
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (16, 24, 4)
    layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24  # q, k and v, o, MLP
    matmul = 2 * 5 * (2 * layer + 48 * 16)  # two layers and the head, five tokens
    attention = 4 * 2 * 16 * (1 + 2 + 3 + 4 + 3)  # scores and values, two layers, the keys that each token sees
    assert step_flops(config, POSITION, BRANCH, trained_share=1.0) == 3 * (matmul + attention)
    assert step_flops(config, POSITION, BRANCH, trained_share=0.0) == 2 * matmul + 3 * attention


def test_the_head_counts_where_the_loss_reads_it():
    config = decoder_config()
    whole = step_flops(config, POSITION, BRANCH, trained_share=1.0)
    prompts = 2 * 2 * 48 * 16  # two tokens
    assert whole - step_flops_of(config, POSITION, BRANCH, nll_scope="response", trained_share=1.0) == 3 * prompts


def test_a_window_hides_keys():
    config = dataclasses.replace(decoder_config(), windows=(2, None))
    whole = step_flops(decoder_config(), POSITION, BRANCH, trained_share=1.0)
    hidden = 4 * 16 * (1 + 2 + 1)  # of one layer: the tokens at positions 2, 3 and 2 see two keys each
    assert whole - step_flops(config, POSITION, BRANCH, trained_share=1.0) == 3 * hidden


@pytest.mark.parametrize(
    ("kind", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v5 lite", 197e12),
                       ("TPU v5p", 459e12), ("NVIDIA L40", 181e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12),
                       ("NVIDIA H100 NVL", 835e12), ("NVIDIA GB200", 2500e12), ("NVIDIA GH200 480GB", 989e12),
                       ("TPU7x", 1153.5e12), ("cpu", None)],
)  # fmt: skip
def test_peaks_are_found_by_the_kind_of_the_device(kind, peak):
    assert peak_flops(kind) == peak
