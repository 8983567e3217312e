"""Rotary position embedding: its settings, their reading from config.json, and its frequencies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.families import Family, HfConfig


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding.

    Attributes:
      kind: `default`, `linear` (every frequency divided by `factor`) or `llama3` (low frequencies are
        divided, high ones kept, between them a ramp).
      partial_rotary_factor: the share of a head's dimensions that are rotated, the first ones.
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
_NEEDED = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}


def _rope(parameters: Mapping[str, Any], config: HfConfig, family: Family, *, theta: float, path: str) -> Rope:
    """One set of rope settings; what they lack is taken from the fields beside them."""
    model_type, known = config["model_type"], family.rope_types
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in known:
        raise Refused(f"{path}: rope type {kind!r} of {model_type} is not supported; supported: {', '.join(known)}")
    unknown = set(parameters) - {
        *_NEEDED[kind],
        "rope_theta",
        "rope_type",
        "type",
        "partial_rotary_factor",
        "factor",
        "original_max_position_embeddings",
    }
    if unknown:
        raise Refused(f"{path}: rope settings that are not supported: {', '.join(sorted(unknown))}")
    missing = set(_NEEDED[kind]) - set(parameters)
    if missing:
        raise Refused(f"{path}: the rope settings of type {kind} lack {', '.join(sorted(missing))}")
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0 and not family.partial_rotary:
        raise Refused(f"{path}: partial_rotary_factor={partial} has no meaning in {model_type}; set it to 1.0")
    scaling = {name: parameters[name] for name in _NEEDED[kind]}
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


def read_ropes(config: HfConfig, family: Family, sliding: list[bool], path: str) -> tuple[Rope, ...]:
    """Reads either generation: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4).

    Args:
      config: the parsed config.json with the family's defaults.
      sliding: whether each layer has a sliding window; with `Family.local_rope` these have their own settings.
      path: where it comes from, for messages.

    Returns: the embedding of each layer.

    Raises:
      Refused: a type or a setting that is not supported, or one that is missing.
    """
    theta = config.get("rope_theta", 10_000.0)
    if not family.local_rope:
        parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
        return (_rope(parameters, config, family, theta=theta, path=path),) * len(sliding)
    model_type, nested = config["model_type"], config.get("rope_parameters") or {}
    if set(nested) - {"full_attention", "sliding_attention"}:
        raise Refused(f"{path}: rope_parameters of {model_type} must hold full_attention and sliding_attention alone")
    whole = {**(nested.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
    if "type" in whole and "rope_type" not in whole:  # transformers 4 obeys it here, 5 does not
        raise Refused(f"{path}: type={whole['type']!r} in rope_scaling of {model_type}; name the field rope_type")
    local, local_theta = nested.get("sliding_attention") or {}, config.get("rope_local_base_freq", 10_000.0)
    ropes = (
        _rope(whole, config, family, theta=theta, path=path),
        _rope(local, config, family, theta=local_theta, path=path),
    )
    return tuple(ropes[layer_slides] for layer_slides in sliding)
