"""Gradients of the ORPO loss, by the trainer's own path, against central differences in float64: one model a family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.datasets import packed, random_pairs
from tests.train.decoders import VOCAB_SIZE, batch_of, decoder_config, objective_of, split_decoder

SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
ALTERNATING = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }},
    "mistral": {"sliding_window": 3},
    "qwen2": {**ALTERNATING, "use_sliding_window": True},
    "qwen3": {"head_dim": 6, "tie_word_embeddings": True},
    "phi3": {"partial_rotary_factor": 0.5},
    "gemma": {"head_dim": 6},
    "gemma2": {**ALTERNATING, "head_dim": 6, "query_pre_attn_scalar": 9,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {**ALTERNATING, "head_dim": 6, "query_pre_attn_scalar": 9},
}  # fmt: skip
STEP = 1e-4


IN_HASTE = ("llama", "gemma2")  # between them nearly all that the families have; the others are slow tests


@pytest.mark.parametrize(
    "family", [family if family in IN_HASTE else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_gradients_equal_central_differences(family):
    """Along a random direction in each weight apart: relative error under 1e-6 (a step of 1e-4 leaves about 1e-8)."""
    with jax.enable_x64(True):
        config = decoder_config(**{**SMALL, **FAMILIES[family], "model_type": family})
        definition, params = split_decoder(config, jnp.float64)
        rng = np.random.default_rng(0)
        # Norms and biases away from one and zero; tables and projections as they are.
        params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.2 * rng.normal(size=leaf.shape), params)
        pairs = random_pairs(rng, 6, vocab_size=VOCAB_SIZE)
        rows = packed(pairs, 32)
        batch = batch_of(rows, 32)
        objective = objective_of(definition, beta=0.3, nll_scope="full", max_pairs=max(map(len, rows)))
        totals = objective.totals(batch)
        value_and_gradients = jax.jit(jax.value_and_grad(lambda params: objective.loss(params, batch, totals)[0]))
        gradients = jax.tree.map(np.asarray, value_and_gradients(params)[1])

        leaves, tree = jax.tree.flatten(params)
        for index, (path, gradient) in enumerate(jax.tree.leaves_with_path(gradients)):
            direction = rng.normal(size=gradient.shape)
            direction /= np.linalg.norm(direction)
            ahead, behind = (
                value_and_gradients(
                    tree.unflatten([*leaves[:index], leaves[index] + step * direction, *leaves[index + 1 :]])
                )[0]
                for step in (STEP, -STEP)
            )
            slope = float(ahead - behind) / (2 * STEP)
            expected, scale = np.vdot(gradient, direction), np.linalg.norm(gradient)
            assert scale > 1e-6, path
            assert abs(slope - expected) < 1e-6 * scale, jax.tree_util.keystr(path)
