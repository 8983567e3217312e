"""Weights that are not trained: which they are, in what dtype they are kept, and how the two parts make one model.

A training state holds the trained weights alone. Frozen ones have no gradient and no optimizer state, are no part of
a checkpoint, and come again from where they came from.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.names import WeightPath, hf_names


def select(
    setting: str, patterns: Sequence[str], names: Mapping[WeightPath, Sequence[str]], matches: Callable[[str, str], Any]
) -> set[WeightPath]:
    """What the patterns match, out of `names`: our path -> the Hugging Face names, one a layer where it is stacked.

    Raises:
      Refused: a pattern that matches nothing, or some layers of a stacked weight and not the others.
    """
    selected = set()
    for pattern in patterns:
        found = {path: [name for name in known if matches(pattern, name)] for path, known in names.items()}
        if not any(found.values()):
            known = ", ".join(_any_layer(known[0]) for known in names.values())
            raise Refused(f"--{setting}: {pattern!r} matches nothing; known are {known}")
        for path, matched in found.items():
            if 0 < len(matched) < len(names[path]):
                raise Refused(
                    f"--{setting}: {pattern!r} matches {matched[0]} but not {_any_layer(matched[0])} of every layer; "
                    "layers are stacked and can only be chosen together"
                )
        selected |= {path for path, matched in found.items() if matched}
    return selected


def _any_layer(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.*.", name)


def frozen_paths(patterns: Sequence[str], abstract_params: dict[str, Any], *, num_layers: int) -> set[WeightPath]:
    """The weights whose Hugging Face name holds a match of one of the regular expressions.

    Raises:
      Refused: as in `select`; or all weights would be frozen.
    """
    names = {path: hf_names(path, num_layers) for path in flatten_dict(abstract_params)}
    frozen = select("frozen_parameters", patterns, names, re.search)
    if len(frozen) == len(names):
        raise Refused(f"--frozen_parameters={list(patterns)}: freezes every weight, nothing would be trained")
    return frozen


def split_params(params: dict[str, Any], frozen: set[WeightPath]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained and frozen weights, each as a tree of its own."""
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return unflatten_dict(trained), unflatten_dict({path: flat[path] for path in flat.keys() & frozen})


def join_params(params: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    """The whole model's weights; copies nothing."""
    return unflatten_dict({**flatten_dict(frozen), **flatten_dict(params)})
