"""Attention of packed rows, and how far a mechanism is from the dense form, in value and gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import make_row
from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.attention.vanilla import VANILLA
from tests.datasets import packed, random_pairs
from tests.train.decoders import largest_difference

VOCAB_SIZE = 50


def rows_of_pairs(longest, length):
    """Positions and ends of three packed rows, the last one mostly padding."""
    pairs = random_pairs(np.random.default_rng(longest), 60, vocab_size=VOCAB_SIZE, longest=longest)
    rows = [*packed(pairs, length)[:2], pairs[:1]]
    arrays = [derive(make_row(row, row_length=length, pad_id=0, vocab_size=VOCAB_SIZE)) for row in rows]
    return np.stack([array.position for array in arrays]), np.stack([array.end for array in arrays])


def difference_from_dense(
    mechanism: Mechanism, *, longest, length, heads, dim, dtype=np.float64, window=None, softcap=None
) -> float:
    """The largest difference of outputs at real positions and of the gradients of queries, keys and values.

    Args:
      longest: tokens of the longest side of a pair.
      heads: of queries, and of keys and values.
    """
    with jax.enable_x64(dtype == np.float64):
        position, end = rows_of_pairs(longest, length)
        rng = np.random.default_rng(0)
        query = rng.normal(size=(3, length, heads[0], dim)).astype(dtype)
        key, value = rng.normal(size=(2, 3, length, heads[1], dim)).astype(dtype)
        d_output = np.where((end > 0)[..., None, None], rng.normal(size=query.shape), 0).astype(dtype)
        limit = None if window is None else jnp.int32(window)

        def total(mechanism, query, key, value):
            output = attention(
                query, key, value, position, Keys(position, end),
                scale=0.5, window=limit, softcap=softcap, mechanism=mechanism,
            )  # fmt: skip
            return (output * d_output).sum(), output

        (found, gradients), (dense, dense_gradients) = (
            (output, gradients)
            for (_, output), gradients in (
                jax.jit(jax.value_and_grad(partial(total, each), (0, 1, 2), has_aux=True))(query, key, value)
                for each in (mechanism, VANILLA)
            )
        )
        assert np.isfinite(found).all()
        real = end > 0
        return largest_difference((found[real], gradients), (dense[real], dense_gradients))


def lowered_for(mechanism: Mechanism, platform: str) -> str:
    """The program of both passes at the shapes of a real model, as JAX lowers it for devices that need not be here."""
    query, key = ((2, 2048, heads, 128) for heads in (8, 2))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (query, key, key)]
    place = jax.ShapeDtypeStruct((2, 2048), jnp.int32)

    def total(query, key, value, position, end):
        output = attention(query, key, value, position, Keys(position, end), scale=0.1, mechanism=mechanism)
        return output.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*arguments, place, place)
    return traced.lower(lowering_platforms=(platform,)).as_text()
