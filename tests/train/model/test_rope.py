"""Rotary embedding: where its settings are read from, in either generation of config.json, and its frequencies."""

import numpy as np

from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.model.rope import Rope, rope_frequencies
from tests.train.decoders import TINY, decoder_config


def test_gemma3_rotates_its_sliding_layers_by_another_base():
    gemma = {**TINY, "model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 2}
    old = parse_config({**gemma, "rope_theta": 1e6, "rope_local_base_freq": 1e4}, path="x")[0]
    assert [rope.theta for rope in old.ropes] == [1e4, 1e6]
    kinds = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert parse_config({**gemma, "rope_parameters": kinds}, path="x")[0] == old


def test_rope_settings_come_from_where_transformers_takes_them():
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

    def length(**changes):
        return parse_config({**TINY, **changes}, path="x")[0].ropes[0].original_max_position_embeddings

    assert length(rope_scaling=scaled, max_position_embeddings=99) == 99
    within = {**scaled, "original_max_position_embeddings": 64}
    assert length(rope_scaling=within, max_position_embeddings=99) == 64
    assert length(rope_scaling=within, original_max_position_embeddings=32) == 32
    both = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}
    assert parse_config({**TINY, **both}, path="x")[0].ropes[0].kind == "linear"


def test_rope_frequencies_by_hand():
    default = rope_frequencies(decoder_config().ropes[0], 4)
    np.testing.assert_allclose(default, [1.0, 0.01])
    linear = decoder_config(rope_scaling={"type": "linear", "factor": 4.0}).ropes[0]
    np.testing.assert_allclose(rope_frequencies(linear, 4), [0.25, 0.0025])


def test_llama3_keeps_high_frequencies_and_divides_low_ones():
    """Between those that rotate 4 times over the first length and those that rotate once there is a ramp."""
    rope = Rope(kind="llama3", factor=8.0, original_max_position_embeddings=64)
    plain, scaled = rope_frequencies(Rope(), 16), rope_frequencies(rope, 16)
    rotations = 64 * plain / (2 * np.pi)
    share = scaled / plain
    np.testing.assert_allclose(share[rotations >= 4], 1)
    np.testing.assert_allclose(share[rotations <= 1], 1 / 8)
    between = share[(rotations > 1) & (rotations < 4)]
    assert between.size and ((between > 1 / 8) & (between < 1)).all()


def test_only_a_share_of_the_dimensions_is_rotated():
    half = rope_frequencies(Rope(partial_rotary_factor=0.5), 16)
    np.testing.assert_allclose(half, rope_frequencies(Rope(), 8))
