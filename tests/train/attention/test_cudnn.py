"""JAX's own function with our mask equals the dense form. XLA's form of it here; cuDNN's: bench/attention.py."""

import numpy as np
import pytest

from tests.train.attention.packed_rows import difference_from_dense
from tests.train.decoders import mechanism_of


@pytest.mark.parametrize("window", [None, 5])
def test_the_mask_as_an_array_equals_dense_attention(window):
    found = difference_from_dense(
        mechanism_of("cudnn"), longest=20, length=128, heads=(4, 2), dim=16, dtype=np.float32, window=window
    )
    assert 0 < found < 1e-5
