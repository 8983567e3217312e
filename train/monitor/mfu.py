"""Model FLOPs utilisation (MFU): the model's own FLOPs a second as a share of the devices' peak.

FLOPs come from a formula, since XLA counts the body of a loop once and layers are scanned. The formula counts real
tokens, the keys that each token sees and the output head at the positions that the loss reads; it does not count
recomputation. Source of the measure: Chowdhery et al. 2022 (arXiv:2204.02311), Appendix B.
"""

from collections import Counter

import jax
import numpy as np

from oddsmill.train.config.loss import NllScope
from oddsmill.train.loss.pairs import needed_positions
from oddsmill.train.model.hf_config import DecoderConfig

# Dense bfloat16 FLOP/s of one device, from the makers' data sheets. A device has the first name that its kind contains.
_PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12 / 2,  # the chip has two cores, each of which is a device to JAX
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak bfloat16 FLOP/s of a kind of device; None if it is not known."""
    return next((peak for name, peak in _PEAK_FLOPS.items() if name in device_kind), None)


def step_flops(
    config: DecoderConfig,
    position_BL: np.ndarray,
    branch_BL: np.ndarray,
    *,
    nll_scope: NllScope,
    trained_share: float,
) -> float:
    """Returns the floating point operations of a training step on these rows.

    Args:
      position_BL, branch_BL: [B, L] int, as `oddsmill.schemas.layout.derive` gives them; a token at position p sees
        p + 1 keys.
      trained_share: trained weights as a share of all; a frozen weight needs no gradient of its own.
    """
    query, key_value = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * query + 2 * key_value + 3 * config.intermediate_size)
    tokens, needed_BL = int(np.count_nonzero(branch_BL)), needed_positions(branch_BL, nll_scope)
    logits = tokens if needed_BL is None else int(np.count_nonzero(needed_BL))
    products = config.num_hidden_layers * layer * tokens + config.vocab_size * config.hidden_size * logits
    # The forward pass, and the backward pass for the inputs and for the weights that are trained.
    return (2 + trained_share) * 2.0 * products + 3 * attention_flops(config, position_BL, branch_BL)


def attention_flops(config: DecoderConfig, position_BL: np.ndarray, branch_BL: np.ndarray) -> float:
    """Returns the FLOPs of attention's two products in the forward pass, over the keys that each token sees."""
    positions = position_BL[branch_BL > 0].astype(np.float64)
    seen = 0.0
    for window, layers in Counter(config.windows).items():
        seen += layers * float(np.minimum(positions + 1, window or np.inf).sum())
    return 4.0 * config.num_attention_heads * config.head_dim * seen


def utilisation(flops: float, seconds: float) -> float | None:
    """Returns the MFU of all devices as a fraction; None if their peak is not known.

    Args:
      flops: model FLOPs of all devices together in `seconds`.
    """
    peak = peak_flops(jax.devices()[0].device_kind)
    return flops / seconds / (peak * jax.device_count()) if peak else None
