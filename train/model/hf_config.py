"""Reads a Hugging Face config.json into the fields of our decoder, and refuses what it cannot obey."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.hf_fields import check_fields
from oddsmill.train.model.rope import Rope, read_ropes


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What defines a decoder's shape and arithmetic. Field names are those of config.json where it has one.

    Attributes:
      ropes, windows: one entry a layer; a window of w lets a token see itself and the w - 1 before it.
      query_key_norm: RMSNorm on every head of queries and keys, before the rotation.
      norm_offset: RMSNorm multiplies by 1 + weight, in float32.
      post_norms: a further RMSNorm after attention and after the MLP, before each is added.
      scaled_embedding: embeddings times sqrt(hidden_size).
      fused_projections: one weight for q, k, v and one for gate, up.
      attention_scale: scores are the dot products times this.
      pad_token_id: its row of the embedding is zero where weights are random.
      attention_dropout, resid_pdrop: of a training step, for attention's weights and for what a layer adds.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    ropes: tuple[Rope, ...]
    windows: tuple[int | None, ...]
    tie_word_embeddings: bool
    query_key_value_bias: bool
    output_bias: bool
    mlp_bias: bool
    initializer_range: float
    hidden_act: str
    attention_scale: float
    attention_dropout: float
    resid_pdrop: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    query_key_norm: bool
    norm_offset: bool
    post_norms: bool
    scaled_embedding: bool
    fused_projections: bool
    pad_token_id: int | None


# Fields that say nothing about the logits of a training step.
_HARMLESS = {
    "_name_or_path", "architectures", "bos_token_id", "eos_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "pretraining_tp", "model_type",
    "is_encoder_decoder", "is_decoder", "add_cross_attention", "chunk_size_feed_forward", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "return_dict", "problem_type", "tokenizer_class",
    "prefix", "sep_token_id", "decoder_start_token_id", "cross_attention_hidden_size", "task_specific_params",
    "finetuning_task", "unsloth_version", "auto_map", "name_or_path", "cache_implementation",
}  # fmt: skip
_OBEYED = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "initializer_range", "hidden_act", "hidden_activation",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern",
    "_sliding_window_pattern", "attention_dropout", "embd_pdrop", "resid_pdrop", "attn_logit_softcapping",
    "final_logit_softcapping", "query_pre_attn_scalar", "rope_local_base_freq", "partial_rotary_factor",
    "use_bidirectional_attention", "quantization_config", "max_position_embeddings",
    "original_max_position_embeddings", "pad_token_id",
}  # fmt: skip

_WINDOWED = {"sliding_window": 4096}
_QWEN = {**_WINDOWED, "num_key_value_heads": 32, "max_window_layers": 28}
_GEMMA = {
    "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    "pad_token_id": 0,
}  # fmt: skip
_GEMMA_3 = {
    **_GEMMA, **_WINDOWED, "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
}  # fmt: skip
# What a field that is absent means, as transformers' configuration classes have it.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {**_WINDOWED, "num_key_value_heads": 8},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "phi3": {"rms_norm_eps": 1e-5, "pad_token_id": 32000},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA_3, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA_3,
}
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}


def _refuse_unsupported(config: dict[str, Any], family: str, path: str) -> None:
    """Refuses, by name, each field whose value would change the result and is not obeyed."""
    if config.get("embd_pdrop"):
        raise Refused(f"{path}: embd_pdrop={config['embd_pdrop']} is not supported; set it to 0.0")
    for name in ("attention_dropout", "resid_pdrop"):
        if not 0 <= (config.get(name) or 0) < 1:
            raise Refused(f"{path}: {name}={config[name]}: must be in [0, 1)")
    if config.get("use_bidirectional_attention"):
        raise Refused(f"{path}: use_bidirectional_attention is not supported; decoders here are causal")
    if config.get("quantization_config"):
        raise Refused(f"{path}: quantization_config is not supported; take the model's weights that are not quantised")
    # transformers has the first of them in the configuration of gemma3_text too, and does not obey it.
    for name, families in (("attn_logit_softcapping", _GEMMAS[1:2]), ("final_logit_softcapping", _GEMMAS[1:])):
        if config.get(name) and family not in families:
            raise Refused(f"{path}: {name} has no meaning in {family}; set it to null")


def _windows(config: dict[str, Any], path: str) -> tuple[int | None, ...]:
    """The sliding window of each layer."""
    family, layers = config["model_type"], config["num_hidden_layers"]
    if family in ("llama", "gemma"):
        return (None,) * layers
    window = config.get("sliding_window")
    if family in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        window = None
    if window is not None and window < 1:
        raise Refused(f"{path}: sliding_window={window}: must be positive, or null for none")
    if family in ("mistral", "phi3"):
        sliding = [window is not None] * layers
    elif family in ("qwen2", "qwen3"):
        sliding = [window is not None and layer >= config["max_window_layers"] for layer in range(layers)]
    else:
        pattern = 2 if family == "gemma2" else config.get("sliding_window_pattern", 6)
        sliding = [(layer + 1) % pattern != 0 for layer in range(layers)]
    if config.get("layer_types"):
        named = [kind == "sliding_attention" for kind in config["layer_types"]]
        if set(config["layer_types"]) - {"full_attention", "sliding_attention"} or len(named) != layers:
            raise Refused(f"{path}: layer_types must name each of {layers} layers full_attention or sliding_attention")
        if family in ("mistral", "phi3") and named != sliding:
            raise Refused(f"{path}: layer_types has no meaning in {family}, and sliding_window says otherwise")
        sliding = named
    if any(sliding) and window is None:
        raise Refused(f"{path}: there are layers of sliding_attention, and no sliding_window")
    return tuple(window if layer_slides else None for layer_slides in sliding)


def parse_config(config: dict[str, Any], *, path: str) -> tuple[DecoderConfig, list[str]]:
    """Reads the fields of a config.json.

    Args:
      config: the parsed JSON, of transformers 4 or 5.
      path: where it comes from, for messages.

    Returns: the decoder's fields, and the names of fields that are unknown here (they are not used).

    Raises:
      Refused: a family, a field or a value that would change the result and is not supported, or a value of
        another kind than the field's.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _DEFAULTS:
        raise Refused(f"{path}: model_type {family!r} is not supported ({', '.join(_DEFAULTS)} are)")
    check_fields(config, path=path)
    missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    missing -= set(config)
    if missing:
        raise Refused(f"{path} lacks {', '.join(sorted(missing))}")
    _refuse_unsupported(config, family, path)
    unknown = sorted(set(config) - _HARMLESS - _OBEYED)
    config = {**_DEFAULTS[family], **config}
    later_gemma = family in ("gemma2", "gemma3_text")
    activation_name = "hidden_activation" if later_gemma else "hidden_act"
    activation = config.get(activation_name, "silu")
    if family == "gemma" and activation == "gelu":  # early configs say gelu and mean this, in transformers too
        activation = "gelu_pytorch_tanh"
    if activation not in _ACTIVATIONS:
        raise Refused(f"{path}: {activation_name}={activation!r} is not supported ({', '.join(_ACTIVATIONS)} are)")
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    if heads % key_value_heads:
        raise Refused(f"{path}: {heads} attention heads cannot share {key_value_heads} key-value heads evenly")
    if head_dim % 2:
        raise Refused(f"{path}: head_dim={head_dim} is odd; rotary embeddings need pairs")
    windows = _windows(config, path)
    attention_bias = bool(config.get("attention_bias", False)) and family in ("llama", "qwen3", *_GEMMAS)
    gemma = family in _GEMMAS
    decoder = DecoderConfig(
        model_type=family,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        ropes=read_ropes(config, [window is not None for window in windows], path),
        windows=windows,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        # Qwen2 always has biases on q, k and v and never on o, whatever its config says.
        query_key_value_bias=family == "qwen2" or attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        initializer_range=config.get("initializer_range") or 0.02,  # as transformers has it, for 0 too
        hidden_act=_ACTIVATIONS[activation],
        attention_scale=(config["query_pre_attn_scalar"] if later_gemma else head_dim) ** -0.5,
        attention_dropout=config.get("attention_dropout") or 0.0,
        # transformers reads it in this family alone.
        resid_pdrop=(config.get("resid_pdrop") or 0.0) if family == "phi3" else 0.0,
        attn_logit_softcapping=config.get("attn_logit_softcapping"),
        final_logit_softcapping=config.get("final_logit_softcapping"),
        query_key_norm=family in ("qwen3", "gemma3_text"),
        norm_offset=gemma,
        post_norms=later_gemma,
        scaled_embedding=gemma,
        fused_projections=family == "phi3",
        pad_token_id=config.get("pad_token_id"),
    )
    return decoder, unknown


def config_file(path: str | Path) -> Path:
    """The config.json, given as the file or as the folder that holds it."""
    return Path(path) / "config.json" if Path(path).is_dir() else Path(path)


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON of a config.json, given as the file or as the folder that holds it.

    Raises:
      Refused: no such file, or not a JSON object.
    """
    path = config_file(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path}: no such file; give a Hugging Face config.json or the folder that holds it") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise Refused(f"{path} holds {type(config).__name__}, a JSON object is needed")
    return config


def num_parameters(config: DecoderConfig) -> int:
    """Weights of the decoder, biases included; a tied head is counted once."""
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_attention_heads * dim, config.num_key_value_heads * dim
    layer = hidden * (query + 2 * key_value) + query * hidden + 3 * hidden * inner
    layer += hidden * (4 if config.post_norms else 2) + 2 * dim * config.query_key_norm
    layer += (query + 2 * key_value) * config.query_key_value_bias + hidden * config.output_bias
    layer += (2 * inner + hidden) * config.mlp_bias
    tables = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_hidden_layers * layer + tables + hidden
