"""Rotary position embedding: what config.json says of it, in the form of either generation of transformers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from oddsmill.schemas.errors import Refused


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding.

    Attributes:
      kind: `default`, `linear` (every frequency divided by `factor`) or `llama3` (low frequencies are
        divided, high ones kept, between them a ramp).
      partial_rotary_factor: share of a head's dimensions that turn, the first ones.
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    partial_rotary_factor: float = 1.0


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Frequencies of the rotary embedding, [rotary_dim / 2] float64 in radians a position.

    Source: ROPE_INIT_FUNCTIONS of transformers (default, linear, llama3).
    """
    rotary_dim = int(head_dim * rope.partial_rotary_factor)
    frequencies = rope.theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        rotations = rope.original_max_position_embeddings * frequencies / (2 * np.pi)
        ramp = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(ramp, 0.0, 1.0)
        return keep * frequencies + (1 - keep) * frequencies / rope.factor
    return frequencies


# The settings that each type needs.
_KINDS = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}


def _rope(parameters: dict[str, Any], config: dict[str, Any], *, theta: float, path: str) -> Rope:
    """One set of rope settings; what they lack is taken from the fields beside them."""
    family = config["model_type"]
    kinds = ["default"] if family == "phi3" else list(_KINDS)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in kinds:
        raise Refused(f"{path}: rope type {kind!r} of {family} is not supported; supported: {', '.join(kinds)}")
    unknown = set(parameters) - {
        *_KINDS[kind], "rope_theta", "rope_type", "type", "partial_rotary_factor", "factor",
        "original_max_position_embeddings",
    }  # fmt: skip
    if unknown:
        raise Refused(f"{path}: rope settings that are not supported: {', '.join(sorted(unknown))}")
    missing = set(_KINDS[kind]) - set(parameters)
    if missing:
        raise Refused(f"{path}: the rope settings of type {kind} lack {', '.join(sorted(missing))}")
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0 and family != "phi3":
        raise Refused(f"{path}: partial_rotary_factor={partial} has no meaning in {family}; set it to 1.0")
    scaling = {name: parameters[name] for name in _KINDS[kind]}
    if kind == "llama3":
        if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise Refused(f"{path}: low_freq_factor of the rope settings must be below high_freq_factor")
        length = config.get("original_max_position_embeddings")
        length = length or parameters.get("original_max_position_embeddings") or config.get("max_position_embeddings")
        if length is None:
            raise Refused(f"{path}: the rope settings of type llama3 lack original_max_position_embeddings")
        scaling["original_max_position_embeddings"] = length
    theta = float(parameters.get("rope_theta", theta))
    return Rope(theta=theta, kind=kind, partial_rotary_factor=partial, **scaling)


def read_ropes(config: dict[str, Any], sliding: list[bool], path: str) -> tuple[Rope, ...]:
    """Either generation: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4).

    Gemma 3 turns sliding layers by another base than the others.

    Args:
      config: the parsed config.json.
      sliding: whether each layer has a sliding window.
      path: where it comes from, for messages.

    Returns: the embedding of each layer.

    Raises:
      Refused: a type or a setting that is not supported, or one that is missing.
    """
    if config["model_type"] != "gemma3_text":
        parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
        return (_rope(parameters, config, theta=config.get("rope_theta", 10_000.0), path=path),) * len(sliding)
    nested = config.get("rope_parameters") or {}
    if set(nested) - {"full_attention", "sliding_attention"}:
        raise Refused(f"{path}: rope_parameters of gemma3_text must hold full_attention and sliding_attention alone")
    whole = {**(nested.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
    if "type" in whole and "rope_type" not in whole:  # transformers 4 obeys it here, 5 does not
        raise Refused(f"{path}: type={whole['type']!r} in rope_scaling of gemma3_text; name the field rope_type")
    local = nested.get("sliding_attention") or {}
    ropes = (
        _rope(whole, config, theta=config.get("rope_theta", 1_000_000.0), path=path),
        _rope(local, config, theta=config.get("rope_local_base_freq", 10_000.0), path=path),
    )
    return tuple(ropes[layer_slides] for layer_slides in sliding)
