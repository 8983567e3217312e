"""Log-probabilities of labels and the gradients through logits, beside those of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.loss.logits import HeadShard, label_logits, logits_gradients, put, take

POSITIONS, HIDDEN, VOCAB = 5, 4, 7


def inputs():
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(POSITIONS, HIDDEN)), rng.normal(size=(VOCAB, HIDDEN))
    return hidden, weight, rng.integers(0, VOCAB, POSITIONS), rng.normal(size=POSITIONS)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_log_probabilities_and_gradients_are_those_of_autodiff(softcap):
    with jax.enable_x64(True):
        hidden, weight, labels, grad = inputs()

        def reference(hidden, weight):
            logits = hidden @ weight.T
            logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
            logp = jax.nn.log_softmax(logits)[np.arange(POSITIONS), labels]
            return (logp * grad).sum(), logp

        (_, logp), gradients = jax.value_and_grad(reference, (0, 1), has_aux=True)(hidden, weight)
        head = HeadShard(jnp.array(weight), softcap, None)
        found = label_logits(jnp.array(hidden), jnp.array(labels), head)
        np.testing.assert_allclose(found.logp_S, logp, rtol=1e-12)
        for ours, theirs in zip(logits_gradients(found, jnp.array(grad), head), gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_logits_of_bfloat16_states_and_the_heads_gradient_are_float32():
    hidden, weight, labels, grad = inputs()
    head = HeadShard(jnp.array(weight, jnp.bfloat16), None, None)
    found = label_logits(jnp.array(hidden, jnp.bfloat16), jnp.array(labels), head)
    assert found.logits_SV.dtype == found.logp_S.dtype == jnp.float32
    hidden_gradient, head_gradient = logits_gradients(found, jnp.array(grad, jnp.float32), head)
    assert (hidden_gradient.dtype, head_gradient.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("parts", [1, 7])
def test_a_split_vocabulary_gives_the_log_probabilities_of_the_whole(parts):
    """The parts are mapped over a named axis, as devices of a mesh are."""
    with jax.enable_x64(True):
        hidden, weight, labels, grad = (jnp.array(array) for array in inputs())
        whole_head = HeadShard(weight, 3.0, None)
        whole = label_logits(hidden, labels, whole_head)
        expected_hidden, expected_head = logits_gradients(whole, grad, whole_head)

        def part(weight):
            head = HeadShard(weight, 3.0, "vocab")
            logits = label_logits(hidden, labels, head)
            return logits.logp_S, *logits_gradients(logits, grad, head)

        shares = weight.reshape(parts, VOCAB // parts, HIDDEN)
        logp, hidden_gradient, head_gradient = jax.vmap(part, axis_name="vocab")(shares)
        for each in logp:
            np.testing.assert_allclose(each, whole.logp_S, rtol=1e-12)
        for each in hidden_gradient:
            np.testing.assert_allclose(each, expected_hidden, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(head_gradient.reshape(VOCAB, HIDDEN), expected_head, rtol=1e-10, atol=1e-12)


def test_an_index_out_of_bounds_takes_zero_and_puts_nothing():
    values = jnp.arange(1, 7)
    index = jnp.array([4, 0, 6, 100])
    taken = take(values, index)
    np.testing.assert_array_equal(taken, [5, 1, 0, 0])
    np.testing.assert_array_equal(put(index, jnp.array([5, 1, 8, 9]), (2, 3)), [[1, 0, 0], [0, 5, 0]])
