"""The map between our weights and their names in a Hugging Face checkpoint.

Our paths are Hugging Face's names with the layers stacked on a leading axis, so the whole map is
`layers.X` <-> `model.layers.{i}.X`. Modules have the same names without the last part.
"""

from typing import Any

Params = dict[str, Any]  # a tree of weights by the parts of their names; its leaves are arrays, or shapes of arrays
WeightPath = tuple[str, ...]


def is_stacked(path: WeightPath) -> bool:
    """True for a per-layer weight, whose leading axis is the layer."""
    return path[0] == "layers"


def hf_names(path: WeightPath, num_layers: int) -> list[str]:
    """Returns the Hugging Face names of one of our weights: one name, or one a layer for a stacked weight."""
    if is_stacked(path):
        return [f"model.layers.{layer}.{'.'.join(path[1:])}" for layer in range(num_layers)]
    return [".".join(path) if path[0] == "lm_head" else f"model.{'.'.join(path)}"]
