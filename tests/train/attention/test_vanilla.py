"""The dense form, which the other mechanisms are compared with, against plain numpy; and the soft cap's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.attention.mask import Keys, mask_of_rows
from oddsmill.train.attention.vanilla import dense_attention, softcap_vjp, softcapped
from tests.train.attention.packed_rows import rows_of_pairs

LENGTH = 48


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (5, 1.5)])
def test_dense_attention_is_a_masked_softmax_of_scaled_products(window, softcap):
    position, end = rows_of_pairs(5, LENGTH)
    rng, index = np.random.default_rng(0), np.arange(LENGTH)
    query, (key, value) = rng.normal(size=(3, LENGTH, 6, 4)), rng.normal(size=(2, 3, LENGTH, 2, 4))
    keys = Keys(position, end)
    mask = np.asarray(mask_of_rows(index, position, index, keys, window))
    with jax.enable_x64(True):
        found = dense_attention(
            query, key, value, position, keys, None if window is None else jnp.int32(window), scale=0.3,
            softcap=softcap,
        )  # fmt: skip
    for row, head in np.ndindex(3, 6):
        scores = query[row, :, head] @ key[row, :, head // 3].T * 0.3
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        weights = np.where(mask[row], np.exp(scores), 0)
        real = end[row] > 0
        expected = (weights @ value[row, :, head // 3])[real] / weights.sum(1, keepdims=True)[real]
        np.testing.assert_allclose(found[row, real, head], expected, atol=1e-12)
    assert np.isfinite(found).all()


def test_queries_after_a_cache_are_the_last_ones_of_the_whole_row():
    position, end = rows_of_pairs(5, LENGTH)
    rng = np.random.default_rng(0)
    query, (key, value) = rng.normal(size=(3, LENGTH, 4, 4)), rng.normal(size=(2, 3, LENGTH, 2, 4))
    keys = Keys(position, end)
    settings = {"scale": 0.5, "softcap": None}
    with jax.enable_x64(True):
        whole = dense_attention(query, key, value, position, keys, None, **settings)
        last = dense_attention(query[:, 40:], key, value, position[:, 40:], keys, None, first_query=40, **settings)
    np.testing.assert_allclose(last, whole[:, 40:], atol=1e-14)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_gradient_through_the_soft_cap_is_that_of_its_formula(softcap):
    values, grad = np.random.default_rng(0).normal(0, 3, (2, 50)).astype(np.float32)
    capped, vjp = jax.vjp(lambda values: softcapped(values, softcap), values)
    np.testing.assert_allclose(softcap_vjp(grad, capped, softcap), vjp(grad)[0], rtol=1e-5, atol=1e-6)
    assert softcap is None or np.abs(capped).max() < softcap
