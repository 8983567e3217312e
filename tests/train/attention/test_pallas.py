"""The Triton kernels equal the dense form. Interpreted here; in bfloat16 and on GPUs: bench/attention.py."""

import numpy as np
import pytest

from oddsmill.train.attention.pallas import PALLAS
from tests.train.attention.packed_rows import difference_from_dense, lowered_for
from tests.train.decoders import mechanism_of


@pytest.mark.parametrize(
    ("dtype", "window", "softcap", "tolerance"),
    [
        (np.float64, None, None, 1e-13),
        (np.float64, 5, None, 1e-13),
        (np.float64, None, 1.5, 1e-13),
        (np.float32, 3, 2.0, 1e-5),
    ],
)
def test_kernels_equal_dense_attention(dtype, window, softcap, tolerance):
    found = difference_from_dense(
        mechanism_of("pallas", block=16), longest=20, length=128, heads=(4, 2), dim=16, dtype=dtype, window=window,
        softcap=softcap,
    )  # fmt: skip
    assert 0 < found < tolerance


def test_kernels_are_compiled_for_gpus():
    """JAX lowers them to Triton's language: one kernel of the forward pass, two of the backward pass."""
    assert lowered_for(PALLAS, "cuda").count("xla.gpu.triton") == 3
