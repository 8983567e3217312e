"""The fingerprint of arrays: what it tells apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oddsmill.train.checkpoint.digests import digest

TREE = {"a": {"w": jnp.arange(12.0).reshape(3, 4)}, "b": jnp.arange(6, dtype=jnp.bfloat16)}


def changed(path, function):
    return jax.tree_util.tree_map_with_path(
        lambda place, leaf: function(leaf) if jax.tree_util.keystr(place) == path else leaf, TREE
    )


def flipped(leaf):
    words = np.asarray(leaf).copy()
    words.view(np.uint8).reshape(-1)[5] ^= 1
    return jnp.asarray(words)


@pytest.mark.parametrize(
    "other",
    [
        changed("['a']['w']", flipped),
        changed("['a']['w']", lambda leaf: leaf[::-1]),
        changed("['a']['w']", lambda leaf: leaf.T),
        changed("['a']['w']", lambda leaf: leaf.reshape(4, 3)),
        changed("['b']", lambda leaf: leaf.astype(jnp.float16)),
        {"a": {"v": TREE["a"]["w"]}, "b": TREE["b"]},
        {"a": TREE["a"]},
    ],
)
def test_other_bits_places_shapes_dtypes_and_names_have_other_digests(other):
    assert digest(other) != digest(TREE)


def test_equal_arrays_have_equal_digests_and_no_arrays_none():
    assert digest(jax.tree.map(lambda leaf: jnp.array(leaf), TREE)) == digest(dict(reversed(TREE.items())))
    assert digest({}) is None
