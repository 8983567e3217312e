"""Every form of attention equals the dense one, in value and gradient, whatever the packing, window and soft cap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import make_row
from oddsmill.train.attention import blocks as attention_blocks
from oddsmill.train.attention import mechanisms as module
from oddsmill.train.attention import triton as attention_triton
from oddsmill.train.attention.mask import Keys, after_query_blocks, branch_views, first_key_blocks, seen_blocks, visible
from oddsmill.train.attention.mechanisms import attention
from oddsmill.train.model.decoder import Decoder
from tests.datasets import packed, random_pairs
from tests.train.decoders import batch_of, decoder_config, largest_difference, objective_of, split_decoder

VOCAB_SIZE, LENGTH = 50, 48


def rows_of_pairs(longest):
    """Positions and ends of three packed rows, the last one mostly padding."""
    pairs = random_pairs(np.random.default_rng(longest), 60, vocab_size=VOCAB_SIZE, longest=longest)
    rows = [*packed(pairs, LENGTH)[:2], pairs[:1]]
    arrays = [derive(make_row(row, row_length=LENGTH, pad_id=0, vocab_size=VOCAB_SIZE)) for row in rows]
    return np.stack([array.position for array in arrays]), np.stack([array.end for array in arrays])


@pytest.mark.parametrize("longest", [2, 5, 15], ids=["many short pairs", "some pairs", "one pair a row"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (5, 1.5)])
def test_blockwise_attention_equals_dense_attention(longest, window, softcap, monkeypatch):
    monkeypatch.setattr(attention_blocks, "BLOCK", 8)
    with jax.enable_x64(True):
        position, end = rows_of_pairs(longest)
        rng = np.random.default_rng(0)
        query = rng.normal(size=(3, LENGTH, 6, 4))
        key, value = rng.normal(size=(2, 3, LENGTH, 2, 4))
        slope = np.where((end > 0)[..., None, None], rng.normal(size=query.shape), 0)
        limit = None if window is None else jnp.int32(window)

        def total(mechanism, query, key, value):
            keys = Keys(position, end)
            output = attention(
                query, key, value, position, keys, scale=0.5, window=limit, softcap=softcap, mechanism=mechanism
            )
            return (output * slope).sum(), output

        results = [
            jax.jit(jax.value_and_grad(partial(total, mechanism), (0, 1, 2), has_aux=True))(query, key, value)
            for mechanism in ("xla", "vanilla")
        ]
        (_, ours), gradients = results[0]
        (_, reference), reference_gradients = results[1]
        real = end > 0
        np.testing.assert_allclose(ours[real], reference[real], atol=1e-12)
        assert np.isfinite(ours).all()
        for found, expected in zip(gradients, reference_gradients, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-12)


KERNEL_CASES = [
    ("pallas", np.float64, None, None, 1e-13),
    ("pallas", np.float64, 5, None, 1e-13),
    ("pallas", np.float64, None, 1.5, 1e-13),
    ("pallas", np.float32, 3, 2.0, 1e-5),
    ("splash", np.float32, None, None, 1e-5),
    ("splash", np.float32, None, 1.5, 1e-5),
    ("cudnn", np.float32, None, None, 1e-5),
    ("cudnn", np.float32, 5, None, 1e-5),
]


@pytest.mark.parametrize(("mechanism", "dtype", "window", "softcap", "tolerance"), KERNEL_CASES)
def test_kernels_equal_dense_attention(mechanism, dtype, window, softcap, tolerance, monkeypatch):
    """Their programs, interpreted; in bfloat16 and on their devices: bench/attention.py."""
    monkeypatch.setattr(module, "INTERPRET", True)
    monkeypatch.setattr(attention_triton, "BLOCK", 16)
    length, rng = 128, np.random.default_rng(0)
    pairs = random_pairs(rng, 60, vocab_size=VOCAB_SIZE, longest=20)
    rows = [*packed(pairs, length)[:2], [pairs[0]]]
    arrays = [derive(make_row(row, row_length=length, pad_id=0, vocab_size=VOCAB_SIZE)) for row in rows]
    position, end = (np.stack([getattr(array, name) for array in arrays]) for name in ("position", "end"))
    query = rng.normal(size=(3, length, 4, 16)).astype(dtype)
    key, value = rng.normal(size=(2, 3, length, 2, 16)).astype(dtype)
    slope = np.where((end > 0)[..., None, None], rng.normal(size=query.shape), 0).astype(dtype)
    limit = None if window is None else jnp.int32(window)

    def total(mechanism, query, key, value):
        mixed = attention(
            query, key, value, position, Keys(position, end), scale=0.5, window=limit, softcap=softcap,
            mechanism=mechanism,
        )  # fmt: skip
        return (mixed * slope).sum(), mixed

    with jax.enable_x64(dtype == np.float64):
        (_, found), gradients = jax.jit(jax.value_and_grad(partial(total, mechanism), (0, 1, 2), has_aux=True))(
            query, key, value
        )
        (_, dense), dense_gradients = jax.jit(jax.value_and_grad(partial(total, "vanilla"), (0, 1, 2), has_aux=True))(
            query, key, value
        )
        real = end > 0
        assert largest_difference(found[real], dense[real]) < tolerance
        assert largest_difference(gradients, dense_gradients) < tolerance
        assert np.isfinite(found).all()


@pytest.mark.parametrize(("mechanism", "platform"), [("pallas", "cuda"), ("splash", "tpu")])
def test_kernels_are_compiled_for_their_devices(mechanism, platform):
    """As far as JAX itself goes: to Triton's and Mosaic's languages, at the shapes of real models."""
    query, key = ((2, 2048, heads, 128) for heads in (8, 2))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (query, key, key)]
    place = jax.ShapeDtypeStruct((2, 2048), jnp.int32)

    def total(query, key, value, position, end):
        mixed = attention(query, key, value, position, Keys(position, end), scale=0.1, mechanism=mechanism)
        return mixed.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*arguments, place, place)
    kernels = {"pallas": "xla.gpu.triton", "splash": "tpu_custom_call"}
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert program.count(kernels[mechanism]) >= 2  # one of the forward pass, and those of the backward pass


def test_blocks_that_the_mask_empties_are_passed_over():
    """A query block begins with the first block that holds a key of its own pairs, a key block ends with the last."""
    end = np.repeat([16, 24, 48, 0], [16, 8, 16, 8])[None]
    assert first_key_blocks(jnp.asarray(end), 8).tolist() == [[0, 0, 2, 3, 3, 3]]
    assert after_query_blocks(jnp.asarray(end), 8).tolist() == [[2, 2, 3, 6, 6, 0]]


@pytest.mark.parametrize("longest", [2, 5, 15])
def test_blocks_are_visited_where_a_query_sees_a_key(longest):
    """And only there: a rejected answer passes over the chosen one, too. A window may leave some too many."""
    position, end = rows_of_pairs(longest)
    index, block = np.arange(LENGTH), 4

    def needed_and_visited(window):
        mask = np.asarray(visible(index, position, index, Keys(position, end), window))
        visited = [seen_blocks(*row, window, block) for row in zip(position, end, strict=True)]
        return mask.reshape(3, LENGTH // block, block, LENGTH // block, block).any((2, 4)), np.stack(visited)

    needed, all_visited = needed_and_visited(None)
    np.testing.assert_array_equal(all_visited, needed)
    needed, visited = needed_and_visited(4)
    assert not (needed & ~visited).any()
    assert longest < 15 or visited.sum() < all_visited.sum()


def test_two_views_by_segments_are_the_mask():
    position, end = rows_of_pairs(5)
    first, second, takes_first = map(np.asarray, branch_views(jnp.asarray(end)))
    causal = np.tri(LENGTH, dtype=bool)
    views = [(segments[:, :, None] == segments[:, None, :]) & causal for segments in (first, second)]
    index = np.arange(LENGTH)
    expected = visible(index, position, index, Keys(position, end), None)
    real = (end > 0)[:, :, None]
    np.testing.assert_array_equal(np.where(takes_first[:, :, None], *views) & real, np.asarray(expected) & real)
    assert takes_first.any()


def test_every_mechanism_gives_the_same_and_only_vanilla_holds_all_scores(monkeypatch):
    monkeypatch.setattr(module, "INTERPRET", True)
    length = 2 * attention_blocks.BLOCK
    rows = packed(random_pairs(np.random.default_rng(0), 90, vocab_size=48, longest=40), length)[:2]
    with jax.enable_x64(True):
        _, params = split_decoder(decoder_config(), jnp.float64)
        batch = batch_of(rows, length)
        programs, losses, gradients, holds_all = {}, {}, {}, {}
        for mechanism in ("auto", "xla", "pallas", "vanilla"):  # in float64
            decoder = Decoder(
                decoder_config(), rngs=nnx.Rngs(0), param_dtype=jnp.float64, compute_dtype=jnp.float64,
                attn_mechanism=mechanism,
            )  # fmt: skip
            objective = objective_of(nnx.split(decoder)[0], beta=0.3, nll_scope="full", max_pairs=max(map(len, rows)))
            step = jax.value_and_grad(objective.loss, has_aux=True)
            traced = jax.jit(step).trace(params, batch, objective.totals(batch))
            programs[mechanism] = traced.lower().as_text()
            holds_all[mechanism] = f"{length},{length}]" in str(traced.jaxpr)
            if mechanism != "auto":
                compiled = traced.lower().compile()
                (losses[mechanism], _), gradients[mechanism] = compiled(params, batch, objective.totals(batch))
        differences = [largest_difference(gradients[name], gradients["vanilla"]) for name in ("xla", "pallas")]
    assert programs["auto"] == programs["xla"] != programs["vanilla"]  # on a CPU
    assert holds_all == {"auto": False, "xla": False, "pallas": False, "vanilla": True}
    assert losses["xla"] == pytest.approx(float(losses["vanilla"]), rel=1e-12)
    assert losses["pallas"] == pytest.approx(float(losses["vanilla"]), rel=1e-12)
    assert max(differences) < 1e-12
