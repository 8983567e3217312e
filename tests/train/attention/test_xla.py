"""Blocks in plain JAX equal the dense form, in value and gradient, whatever the packing, window and soft cap."""

import pytest

from tests.train.attention.packed_rows import difference_from_dense
from tests.train.decoders import mechanism_of


@pytest.mark.parametrize("longest", [2, 5, 15], ids=["many short pairs", "some pairs", "one pair a row"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (5, 1.5)])
def test_blockwise_attention_equals_dense_attention(longest, window, softcap):
    blocks_of_8 = mechanism_of("xla", block=8)
    assert blocks_of_8.takes_length(48)
    found = difference_from_dense(
        blocks_of_8, longest=longest, length=48, heads=(6, 2), dim=4, window=window, softcap=softcap
    )
    assert 0 < found < 1e-12
