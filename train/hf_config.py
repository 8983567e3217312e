"""Reads a Hugging Face config.json into the fields of our decoder, and refuses what it cannot obey."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import Refused


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


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What defines a decoder's shape and arithmetic. Field names are those of config.json where it has one.

    Attributes:
      ropes, windows: one entry a layer; a window of w lets a token see itself and the w - 1 before it.
      query_key_norm: RMSNorm on every head of queries and keys, before the rotation.
      gemma_norm: RMSNorm multiplies by 1 + weight, in float32.
      post_norms: a further RMSNorm after attention and after the MLP, before each is added.
      scaled_embedding: embeddings times sqrt(hidden_size).
      fused_projections: one weight for q, k, v and one for gate, up.
      attention_scale: scores are the dot products times this.
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
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    query_key_norm: bool
    gemma_norm: bool
    post_norms: bool
    scaled_embedding: bool
    fused_projections: bool


# Fields that say nothing about the logits of a training step.
_HARMLESS = {
    "_name_or_path", "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "max_position_embeddings", "pretraining_tp", "model_type",
    "is_encoder_decoder", "is_decoder", "add_cross_attention", "chunk_size_feed_forward", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "return_dict", "problem_type", "tokenizer_class",
    "prefix", "sep_token_id", "decoder_start_token_id", "cross_attention_hidden_size", "task_specific_params",
    "finetuning_task", "unsloth_version", "auto_map", "name_or_path", "cache_implementation",
    "original_max_position_embeddings",
}  # fmt: skip
_OBEYED = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "initializer_range", "hidden_act", "hidden_activation",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern",
    "_sliding_window_pattern", "attention_dropout", "embd_pdrop", "resid_pdrop", "attn_logit_softcapping",
    "final_logit_softcapping", "query_pre_attn_scalar", "rope_local_base_freq", "partial_rotary_factor",
    "use_bidirectional_attention",
}  # fmt: skip

# Which layers have a sliding window where config.json has no `layer_types` (transformers 4).
_SLIDING: dict[str, Callable[[int, dict[str, Any]], bool]] = {
    "mistral": lambda layer, config: True,
    "phi3": lambda layer, config: True,
    "qwen2": lambda layer, config: layer >= config.get("max_window_layers", 28),
    "qwen3": lambda layer, config: layer >= config.get("max_window_layers", 28),
    "gemma2": lambda layer, config: layer % 2 == 0,
    "gemma3_text": lambda layer, config: (layer + 1) % config.get("sliding_window_pattern", 6) != 0,
}
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", *_GEMMAS)
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_pytorch_tanh", "gelu_new": "gelu_pytorch_tanh"}


def _refuse_unsupported(config: dict[str, Any], family: str, path: str) -> None:
    """Refuses, by name, each field whose value would change the result and is not obeyed."""
    for name in ("attention_dropout", "embd_pdrop", "resid_pdrop"):
        if config.get(name):
            raise Refused(f"{path}: {name}={config[name]} is not supported; set it to 0.0")
    if config.get("use_bidirectional_attention"):
        raise Refused(f"{path}: use_bidirectional_attention is not supported; decoders here are causal")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name) and family not in ("gemma2", "gemma3_text"):
            raise Refused(f"{path}: {name} is not a field of {family}")


def _rope(parameters: dict[str, Any], *, theta: float, partial: float, path: str) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise Refused(f"{path}: rope type {kind!r} is not supported (default, linear, llama3 are)")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    unknown = set(parameters) - {"rope_theta", "rope_type", "type", "partial_rotary_factor", *names}
    if unknown:
        raise Refused(f"{path}: rope settings that are not supported: {', '.join(sorted(unknown))}")
    return Rope(
        theta=float(parameters.get("rope_theta", theta)),
        kind=kind,
        partial_rotary_factor=parameters.get("partial_rotary_factor", partial),
        **{name: parameters[name] for name in names if name in parameters},
    )


def _ropes(config: dict[str, Any], sliding: list[bool], path: str) -> tuple[Rope, ...]:
    """Either generation: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4).

    Gemma 3 turns sliding layers by another base than the others.
    """
    theta, partial = config.get("rope_theta", 10_000.0), config.get("partial_rotary_factor", 1.0)
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "full_attention" in parameters:
        whole = _rope(parameters["full_attention"], theta=theta, partial=partial, path=path)
        local = _rope(parameters["sliding_attention"], theta=theta, partial=partial, path=path)
    else:
        if config["model_type"] == "gemma3_text":
            theta = config.get("rope_theta", 1_000_000.0)
        whole = local = _rope(parameters, theta=theta, partial=partial, path=path)
        if config["model_type"] == "gemma3_text":
            local = Rope(theta=float(config.get("rope_local_base_freq", 10_000.0)))
    return tuple(local if layer_slides else whole for layer_slides in sliding)


def _sliding_layers(config: dict[str, Any], family: str, path: str) -> list[bool]:
    layers = config["num_hidden_layers"]
    if family in ("llama", "gemma"):
        return [False] * layers
    if config.get("layer_types"):
        unknown = set(config["layer_types"]) - {"full_attention", "sliding_attention"}
        if unknown or len(config["layer_types"]) != layers:
            raise Refused(f"{path}: layer_types must name each of {layers} layers full_attention or sliding_attention")
        return [kind == "sliding_attention" for kind in config["layer_types"]]
    if config.get("sliding_window") is None:
        return [False] * layers
    if family in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        return [False] * layers
    return [_SLIDING[family](layer, config) for layer in range(layers)]


def parse_config(config: dict[str, Any], *, path: str) -> tuple[DecoderConfig, list[str]]:
    """Reads the fields of a config.json.

    Args:
      config: the parsed JSON, of transformers 4 or 5.
      path: where it comes from, for messages.

    Returns: the decoder's fields, and the names of fields that are unknown here (they are not used).

    Raises:
      Refused: a family, a field or a value that would change the result and is not supported.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise Refused(f"{path}: model_type {family!r} is not supported ({', '.join(_FAMILIES)} are)")
    missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    missing -= set(config)
    if missing:
        raise Refused(f"{path} lacks {', '.join(sorted(missing))}")
    _refuse_unsupported(config, family, path)
    gemma = family in _GEMMAS
    activation = config.get("hidden_activation") or config.get("hidden_act")
    activation = activation or ("gelu_pytorch_tanh" if gemma else "silu")
    if gemma and activation == "gelu":  # early Gemma configs say gelu and mean this, in transformers too
        activation = "gelu_pytorch_tanh"
    if activation not in _ACTIVATIONS:
        raise Refused(f"{path}: hidden_act={activation!r} is not supported ({', '.join(_ACTIVATIONS)} are)")
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or (
        256 if gemma else 128 if family == "qwen3" else config["hidden_size"] // heads
    )
    if heads % key_value_heads:
        raise Refused(f"{path}: {heads} attention heads cannot share {key_value_heads} key-value heads evenly")
    if head_dim % 2:
        raise Refused(f"{path}: head_dim={head_dim} is odd; rotary embeddings need pairs")
    sliding = _sliding_layers(config, family, path)
    attention_bias = bool(config.get("attention_bias", False))
    attention_scale = head_dim**-0.5
    if family in ("gemma2", "gemma3_text"):
        attention_scale = config.get("query_pre_attn_scalar", 256) ** -0.5
    softcapping = {"gemma2": (50.0, 30.0)}.get(family, (None, None))
    decoder = DecoderConfig(
        model_type=family,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=config.get("rms_norm_eps", 1e-5 if family == "phi3" else 1e-6),
        ropes=_ropes(config, sliding, path),
        windows=tuple(config["sliding_window"] if layer_slides else None for layer_slides in sliding),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", gemma)),
        # Qwen2 always has biases on q, k and v and never on o, whatever its config says.
        query_key_value_bias=family == "qwen2" or attention_bias,
        output_bias=family in ("llama", "qwen3", *_GEMMAS) and attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        initializer_range=config.get("initializer_range", 0.02),
        hidden_act=_ACTIVATIONS[activation],
        attention_scale=attention_scale,
        attn_logit_softcapping=config.get("attn_logit_softcapping", softcapping[0]),
        final_logit_softcapping=config.get("final_logit_softcapping", softcapping[1]),
        query_key_norm=family in ("qwen3", "gemma3_text"),
        gemma_norm=gemma,
        post_norms=family in ("gemma2", "gemma3_text"),
        scaled_embedding=gemma,
        fused_projections=family == "phi3",
    )
    return decoder, sorted(set(config) - _HARMLESS - _OBEYED)


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON of a config.json, given as the file or as the folder that holds it.

    Raises:
      Refused: no such file, or not a JSON object.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
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
