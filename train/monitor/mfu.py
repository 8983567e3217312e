"""Model FLOPs utilisation: what share of the devices' peak the arithmetic of the model itself takes.

XLA's own count reports the body of a loop once, and layers are scanned; so this is a formula. It counts real tokens,
keys that a token sees, no recomputation; the head at the positions that the loss reads.
"""

from collections import Counter

import jax
import numpy as np

from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.pairs import needed_positions
from oddsmill.train.model.hf_config import DecoderConfig

# Dense bfloat16 FLOP/s of one device by the makers' data sheets; the first name that the device's kind contains.
# A TPU7x of 2307e12 has two cores, each of which is a device to JAX.
PEAK_FLOPS = (
    ("GB200", 2500e12), ("B200", 2250e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12),
    ("GH200", 989e12), ("H200 NVL", 835e12), ("H200", 989e12), ("A100", 312e12), ("L40S", 362e12), ("L40", 181e12),
    ("L4", 121e12), ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5", 459e12),
    ("TPU v6", 918e12), ("TPU7x", 2307e12 / 2),
)  # fmt: skip


def peak_flops(device_kind: str) -> float | None:
    """FLOP/s of a device; None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS if name in device_kind), None)


def step_flops(
    config: DecoderConfig,
    position_BL: np.ndarray,
    branch_BL: np.ndarray,
    *,
    nll_scope: NllScope,
    trained_share: float,
) -> float:
    """Floating point operations of a training step on these rows.

    Args:
      position_BL, branch_BL: as `oddsmill.schemas.layout.derive` gives them; a token at position p sees p + 1 keys.
      trained_share: of the weights; one that is frozen costs no gradient of its own.
    """
    query, key_value = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * query + 2 * key_value + 3 * config.intermediate_size)
    tokens, needed_BL = int(np.count_nonzero(branch_BL)), needed_positions(branch_BL, nll_scope)
    heads = tokens if needed_BL is None else int(np.count_nonzero(needed_BL))
    products = config.num_hidden_layers * layer * tokens + config.vocab_size * config.hidden_size * heads
    # Forward once; backward once for the inputs and once for the weights that are trained.
    return (2 + trained_share) * 2.0 * products + 3 * attention_flops(config, position_BL, branch_BL)


def attention_flops(config: DecoderConfig, position_BL: np.ndarray, branch_BL: np.ndarray) -> float:
    """Of scores and of what is mixed by them, forward alone, over the keys that each token sees."""
    positions = position_BL[branch_BL > 0].astype(np.float64)
    seen = 0.0
    for window, layers in Counter(config.windows).items():
        seen += layers * float(np.minimum(positions + 1, window or np.inf).sum())
    return 4.0 * config.num_attention_heads * config.head_dim * seen


def utilisation(flops: float, seconds: float) -> float | None:
    """Of all devices; None where the peak is not known.

    Args:
      flops: of all devices together.
    """
    peak = peak_flops(jax.devices()[0].device_kind)
    return flops / seconds / (peak * jax.device_count()) if peak else None
