"""Splash, called for two views of a row, equals the dense form. Interpreted here; on TPUs: bench/attention.py."""

import numpy as np
import pytest

from oddsmill.train.attention.splash import SPLASH
from tests.train.attention.packed_rows import difference_from_dense, lowered_for
from tests.train.decoders import mechanism_of


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_two_views_equal_dense_attention(softcap):
    found = difference_from_dense(
        mechanism_of("splash"), longest=20, length=128, heads=(4, 2), dim=16, dtype=np.float32, softcap=softcap
    )
    assert 0 < found < 1e-5


def test_kernels_are_compiled_for_tpus():
    """JAX lowers them to Mosaic's language: kernels of the forward and the backward pass."""
    assert lowered_for(SPLASH, "tpu").count("tpu_custom_call") >= 2
