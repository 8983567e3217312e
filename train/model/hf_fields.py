"""The fields of a config.json that are read, and the kind of value that each holds: another kind is refused at once."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from oddsmill.schemas.errors import Refused

_LARGEST_WHOLE, _LARGEST = 2**31, 1e30  # what an int32 and a float32 hold, with room to multiply

_MOST_LAYERS = 10_000  # the deepest models have some hundred; each layer is an entry of lists here


class _Kind(NamedTuple):
    """A kind of value: its name in "must be …", and the test that a value is of it."""

    must_be: str
    holds: Callable[[Any], bool]


def _whole(lowest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and lowest <= value < _LARGEST_WHOLE  # true and false are no numbers


def _number(lowest: float, highest: float = _LARGEST) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and lowest <= value <= highest  # NaN is not


_COUNT = _Kind("a whole number of at least 1", _whole(1))
_LAYERS = _Kind(
    f"a whole number from 1 to {_MOST_LAYERS:,}", lambda value: type(value) is int and 1 <= value <= _MOST_LAYERS
)
_WHOLE = _Kind("a whole number", _whole(-_LARGEST_WHOLE))
_POSITIVE = _Kind("a number above 0", _number(1 / _LARGEST))
_NOT_NEGATIVE = _Kind("a number of at least 0", _number(0))
_SHARE = _Kind("a number above 0 and at most 1", _number(1 / _LARGEST, 1))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_NAME = _Kind("a text", lambda value: isinstance(value, str))
_NAMES = _Kind(
    "a list of texts", lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value)
)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))

# Fields of the second table may be null: transformers takes null for a field that is absent or turned off.
_NEVER_NULL = {
    _COUNT: (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "sliding_window_pattern",
    ),
    _LAYERS: ("num_hidden_layers",),
    _WHOLE: ("max_window_layers",),
    _NOT_NEGATIVE: ("rms_norm_eps",),
    _POSITIVE: ("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar"),
    _SHARE: ("partial_rotary_factor",),
}
_OR_NULL = {
    _COUNT: ("num_key_value_heads", "head_dim", "max_position_embeddings", "original_max_position_embeddings"),
    _WHOLE: ("sliding_window", "pad_token_id"),
    _POSITIVE: ("attn_logit_softcapping", "final_logit_softcapping"),
    _NOT_NEGATIVE: ("initializer_range", "attention_dropout", "embd_pdrop", "resid_pdrop"),
    _FLAG: ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "use_bidirectional_attention"),
    _NAME: ("hidden_act", "hidden_activation"),
    _NAMES: ("layer_types",),
    _OBJECT: ("rope_scaling", "rope_parameters"),
}
# Every field that is read; quantization_config is refused, whatever it holds.
FIELDS = {name for kinds in (_NEVER_NULL, _OR_NULL) for names in kinds.values() for name in names} | {
    "quantization_config"
}
# Of the objects for rotary embeddings; some families have one of them for each kind of layer.
_ROPE = {
    _POSITIVE: ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    _SHARE: ("partial_rotary_factor",),
    _COUNT: ("original_max_position_embeddings",),
    _NAME: ("rope_type", "type"),
}
_ROPE_OBJECTS = {_OBJECT: ("full_attention", "sliding_attention")}


def check_fields(config: Mapping[str, Any], *, path: str) -> None:
    """Checks the kind of every field's value.

    Args:
      config: the parsed JSON.
      path: where it comes from, for messages.

    Raises:
      Refused: a value is of another kind; the message names its field.
    """
    _check(config, _NEVER_NULL, path)
    _check(config, _OR_NULL, path, or_null=True)
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name) or {}
        _check(rope, _ROPE, f"{path}: {name}")
        _check(rope, _ROPE_OBJECTS, f"{path}: {name}", or_null=True)
        for kind in _ROPE_OBJECTS[_OBJECT]:
            _check(rope.get(kind) or {}, _ROPE, f"{path}: {name}: {kind}")


def _check(
    values: Mapping[str, Any], kinds: Mapping[_Kind, tuple[str, ...]], where: str, *, or_null: bool = False
) -> None:
    for kind, names in kinds.items():
        for name in names:
            value = values.get(name)
            if name not in values or (or_null and value is None) or kind.holds(value):
                continue
            shown = json.dumps(value, ensure_ascii=False)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise Refused(f"{where}: {name}={shown}: must be {kind.must_be}{' or null' if or_null else ''}")
