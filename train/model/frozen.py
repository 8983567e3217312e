"""Trained and frozen weights: which weights are frozen, and how the two parts make one model.

A training state holds the trained weights alone. Frozen ones have no gradient and no optimizer state and are not in
checkpoints; a run that resumes reads them again from the model they came from.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.names import Params, WeightPath, hf_names


def select(
    setting: str,
    patterns: Sequence[str],
    names: Mapping[WeightPath, Sequence[str]],
    matches: Callable[[str, str], bool],
) -> set[WeightPath]:
    """Returns the paths that one of the patterns matches.

    Args:
      setting: the setting that holds the patterns, for error messages.
      names: our paths with their Hugging Face names: one a path, or one a layer for a stacked weight.
      matches: (pattern, name) -> bool.

    Raises:
      Refused: a pattern matches nothing, or only some layers of a stacked weight.
    """
    selected = set()
    for pattern in patterns:
        found = {path: [name for name in known if matches(pattern, name)] for path, known in names.items()}
        if not any(found.values()):
            known = ", ".join(_for_any_layer(known[0]) for known in names.values())
            raise Refused(f"--{setting}: {pattern!r} matches nothing; known are {known}")
        for path, matched in found.items():
            if 0 < len(matched) < len(names[path]):
                raise Refused(
                    f"--{setting}: {pattern!r} matches {matched[0]} but not {_for_any_layer(matched[0])} of every "
                    "layer; layers are stacked and can only be chosen together"
                )
        selected |= {path for path, matched in found.items() if matched}
    return selected


def _for_any_layer(name: str) -> str:
    return re.sub(r"\.layers\.\d+\.", ".layers.*.", name)


def frozen_paths(patterns: Sequence[str], abstract_params: Params, *, num_layers: int) -> set[WeightPath]:
    """Returns the weights in whose Hugging Face name one of the regular expressions is found.

    Raises:
      Refused: a pattern matches nothing or only some layers, or all weights would be frozen.
    """
    names = {path: hf_names(path, num_layers) for path in flatten_dict(abstract_params)}
    frozen = select("frozen_parameters", patterns, names, lambda pattern, name: re.search(pattern, name) is not None)
    if len(frozen) == len(names):
        raise Refused(f"--frozen_parameters={list(patterns)}: freezes every weight, nothing would be trained")
    return frozen


def split_params(params: Params, frozen: set[WeightPath]) -> tuple[Params, Params]:
    """Returns the trained and the frozen weights, each as a tree of its own."""
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return unflatten_dict(trained), unflatten_dict({path: flat[path] for path in flat.keys() & frozen})


def join_params(params: Params, frozen: Params) -> Params:
    """Returns the whole model's weights as one tree; copies no array."""
    return unflatten_dict({**flatten_dict(frozen), **flatten_dict(params)})
