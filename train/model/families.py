"""The families of decoders that can be trained: one record each of what sets their architecture apart.

A family whose parts are all known here is added by its record. Source: the configuration and modelling code of
transformers for each model_type.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HfConfig = Mapping[str, Any]  # the parsed JSON of a config.json
Bias = Literal["never", "configured", "always"]

# Names of config.json -> the two activations that the decoder has.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture, and what the fields of its config.json mean. Each default is what most families have.

    Attributes:
      defaults: the values of fields that are absent.
      query_key_value_bias, output_bias: of attention's projections; "configured" is by the field attention_bias.
      mlp_bias: of the MLP's projections; "configured" is by the field mlp_bias.
      query_key_norm: an RMSNorm on every head of queries and keys, before the rotation.
      norm_offset: an RMSNorm multiplies by 1 + weight, in float32.
      post_norms: further norms after attention and after the MLP, before each is added.
      scaled_embedding: embeddings are multiplied by sqrt(hidden_size).
      fused_projections: one weight holds q, k and v, one gate and up.
      activation_field: the field that names the activation.
      activations: the names that it may have, and what they mean.
      scale_field: scores are multiplied by this field's value ** -0.5; None: by head_dim ** -0.5.
      softcaps: the soft caps that it has, by their fields; others are refused.
      residual_dropout: it has the dropout of resid_pdrop.
      sliding_layers: whether each layer has a sliding window, by config.json; None: no layer has, whatever it says.
      window_switch: the field without which sliding_window counts for nothing; None: it always counts.
      window_required: sliding_window may not be null where layers slide.
      reads_layer_types: layer_types says which layers slide; without this it may only repeat `sliding_layers`.
      rope_types: the types of rotary embedding that it has.
      partial_rotary: only a share of a head's dimensions may be rotated (partial_rotary_factor).
      forced_split: the pattern by which transformers 5.23 splits texts for all models of this type, by a tokenizer
        class that it takes whatever the folder names; None: it takes the class that the folder names.
      local_rope: sliding layers have a rotary embedding of their own (rope_local_base_freq).
    """

    defaults: HfConfig = field(default_factory=dict)
    query_key_value_bias: Bias = "never"
    output_bias: Bias = "never"
    mlp_bias: Bias = "never"
    query_key_norm: bool = False
    norm_offset: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False
    fused_projections: bool = False
    activation_field: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=lambda: _ACTIVATIONS)
    scale_field: str | None = None
    softcaps: tuple[str, ...] = ()
    residual_dropout: bool = False
    sliding_layers: Callable[[HfConfig], list[bool]] | None = None
    window_switch: str | None = None
    window_required: bool = False
    reads_layer_types: bool = False
    rope_types: tuple[str, ...] = ("default", "linear", "llama3")
    partial_rotary: bool = False
    local_rope: bool = False
    forced_split: str | None = None


def _all_layers(config: HfConfig) -> list[bool]:
    return [True] * config["num_hidden_layers"]


def _upper_layers(config: HfConfig) -> list[bool]:
    return [layer >= config["max_window_layers"] for layer in range(config["num_hidden_layers"])]


def _all_but_every(period: int, config: HfConfig) -> list[bool]:
    return [layer % period != 0 for layer in range(1, config["num_hidden_layers"] + 1)]


_LLAMA = Family(query_key_value_bias="configured", output_bias="configured", mlp_bias="configured")
_MISTRAL = Family(defaults={"sliding_window": 4096, "num_key_value_heads": 8}, sliding_layers=_all_layers)
_QWEN2_DEFAULTS = {"sliding_window": 4096, "num_key_value_heads": 32, "max_window_layers": 28}
_QWEN2 = Family(
    defaults=_QWEN2_DEFAULTS,
    query_key_value_bias="always",  # and never on o, whatever its config.json says
    sliding_layers=_upper_layers,
    window_switch="use_sliding_window",
    reads_layer_types=True,
    forced_split=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
)
_QWEN3 = Family(
    defaults={**_QWEN2_DEFAULTS, "head_dim": 128},
    query_key_value_bias="configured",
    output_bias="configured",
    query_key_norm=True,
    sliding_layers=_upper_layers,
    window_switch="use_sliding_window",
    reads_layer_types=True,
)
_PHI3 = Family(
    defaults={"rms_norm_eps": 1e-5, "pad_token_id": 32000},
    fused_projections=True,
    residual_dropout=True,
    sliding_layers=_all_layers,
    rope_types=("default",),
    partial_rotary=True,
)
_GEMMA_DEFAULTS = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
_GEMMA = Family(
    defaults=_GEMMA_DEFAULTS,
    query_key_value_bias="configured",
    output_bias="configured",
    norm_offset=True,
    scaled_embedding=True,
    activations={**_ACTIVATIONS, "gelu": "gelu_pytorch_tanh"},  # early configs say gelu and mean this
)
_LATER_GEMMA_DEFAULTS = {
    **_GEMMA_DEFAULTS,
    "sliding_window": 4096,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
}
_GEMMA2 = Family(
    defaults={**_LATER_GEMMA_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    query_key_value_bias="configured",
    output_bias="configured",
    norm_offset=True,
    post_norms=True,
    scaled_embedding=True,
    activation_field="hidden_activation",
    scale_field="query_pre_attn_scalar",
    softcaps=("attn_logit_softcapping", "final_logit_softcapping"),
    sliding_layers=lambda config: _all_but_every(2, config),
    window_required=True,
    reads_layer_types=True,
)
_GEMMA3_TEXT = Family(
    defaults={**_LATER_GEMMA_DEFAULTS, "rope_theta": 1_000_000.0},
    query_key_value_bias="configured",
    output_bias="configured",
    query_key_norm=True,
    norm_offset=True,
    post_norms=True,
    scaled_embedding=True,
    activation_field="hidden_activation",
    scale_field="query_pre_attn_scalar",
    softcaps=("final_logit_softcapping",),  # transformers reads attn_logit_softcapping too, and does not obey it
    sliding_layers=lambda config: _all_but_every(config.get("sliding_window_pattern", 6), config),
    window_required=True,
    reads_layer_types=True,
    local_rope=True,
)

# By model_type of config.json.
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "phi3": _PHI3,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3_TEXT,
}
