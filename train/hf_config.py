"""Reads a Hugging Face config.json into the fields of our decoder, and refuses what it cannot obey."""

import json
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
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What defines a decoder's shape and arithmetic. Field names are those of config.json where it has one."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    tie_word_embeddings: bool
    query_key_value_bias: bool
    output_bias: bool
    mlp_bias: bool
    initializer_range: float
    hidden_act: str


# Fields that say nothing about the logits of a training step.
_HARMLESS = {
    "_name_or_path", "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "max_position_embeddings", "pretraining_tp", "model_type",
    "is_encoder_decoder", "is_decoder", "add_cross_attention", "chunk_size_feed_forward", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "return_dict", "problem_type", "tokenizer_class",
    "prefix", "sep_token_id", "decoder_start_token_id", "cross_attention_hidden_size", "task_specific_params",
    "finetuning_task", "unsloth_version", "auto_map", "name_or_path", "hidden_dropout", "max_window_layers",
    "layer_types",
}  # fmt: skip
_OBEYED = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "initializer_range", "hidden_act",
    "sliding_window", "use_sliding_window", "attention_dropout",
}  # fmt: skip
_FAMILIES = ("llama", "mistral", "qwen2")


def _rope(config: dict[str, Any], path: str) -> Rope:
    """Either generation: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4)."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise Refused(f"{path}: rope type {kind!r} is not supported (default, linear, llama3 are)")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    unknown = set(parameters) - {"rope_theta", "rope_type", "type", *names}
    if unknown:
        raise Refused(f"{path}: rope settings that are not supported: {', '.join(sorted(unknown))}")
    theta = parameters.get("rope_theta", config.get("rope_theta", 10_000.0))
    return Rope(theta=float(theta), kind=kind, **{name: parameters[name] for name in names if name in parameters})


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
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", family == "mistral"):
        raise Refused(f"{path}: sliding_window={window} is not supported; every layer here sees the whole sequence")
    if config.get("attention_dropout", 0.0):
        raise Refused(f"{path}: attention_dropout={config['attention_dropout']} is not supported; set it to 0.0")
    if config.get("hidden_act", "silu") != "silu":
        raise Refused(f"{path}: hidden_act={config['hidden_act']!r} is not supported (silu is)")
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    if heads % key_value_heads:
        raise Refused(f"{path}: {heads} attention heads cannot share {key_value_heads} key-value heads evenly")
    if head_dim % 2:
        raise Refused(f"{path}: head_dim={head_dim} is odd; rotary embeddings need pairs")
    attention_bias = bool(config.get("attention_bias", False))
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
        rope=_rope(config, path),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        # Qwen2 always has biases on q, k and v and never on o, whatever its config says.
        query_key_value_bias=family == "qwen2" or attention_bias,
        output_bias=family == "llama" and attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        initializer_range=config.get("initializer_range", 0.02),
        hidden_act="silu",
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
    layer = hidden * (query + 2 * key_value) + query * hidden + 3 * hidden * inner + 2 * hidden
    layer += (query + 2 * key_value) * config.query_key_value_bias + hidden * config.output_bias
    layer += (2 * inner + hidden) * config.mlp_bias
    tables = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_hidden_layers * layer + tables + hidden
