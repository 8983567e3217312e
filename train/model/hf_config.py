"""Reads a Hugging Face config.json by the record of its family, and refuses what it cannot obey."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.typed_json import read_object
from oddsmill.train.model.families import FAMILIES, Bias, Family, HfConfig
from oddsmill.train.model.hf_fields import FIELDS, check_fields
from oddsmill.train.model.rope import Rope, read_ropes


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape and arithmetic of a decoder. Field names are those of config.json where it has one.

    Attributes:
      ropes, windows: one entry a layer; a window of w lets a token see itself and the w - 1 before it.
      query_key_norm, norm_offset, post_norms, scaled_embedding, fused_projections: as in `Family`.
      hidden_act: silu or gelu_pytorch_tanh.
      attention_scale: scores are the dot products times this.
      pad_token_id: its row of the embedding is zero where weights are random.
      attention_dropout, resid_pdrop: rates in a training step, of attention weights and of what a layer adds.
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


# Memory is asked for by these; the largest models have widths of some ten thousand, and 10^12 weights.
_MOST = {
    **dict.fromkeys(("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"), 1 << 20),
    **dict.fromkeys(("vocab_size", "intermediate_size"), 1 << 24),
}
_MOST_PARAMETERS = 10**13

# Fields that say nothing about the logits of a training step.
_HARMLESS = set(
    """
    _name_or_path architectures bos_token_id eos_token_id torch_dtype dtype transformers_version use_cache
    pretraining_tp model_type is_encoder_decoder is_decoder add_cross_attention chunk_size_feed_forward id2label
    label2id output_attentions output_hidden_states return_dict problem_type tokenizer_class prefix sep_token_id
    decoder_start_token_id cross_attention_hidden_size task_specific_params finetuning_task unsloth_version
    auto_map name_or_path cache_implementation _sliding_window_pattern
    """.split()
)


def _refuse_unsupported(config: HfConfig, family: Family, path: str) -> None:
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
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name) and name not in family.softcaps:
            raise Refused(f"{path}: {name} has no meaning in {config['model_type']}; set it to null")


def _windows(config: HfConfig, family: Family, path: str) -> tuple[int | None, ...]:
    """The sliding window of each layer."""
    layers = config["num_hidden_layers"]
    if family.sliding_layers is None:
        return (None,) * layers
    counts = family.window_switch is None or config.get(family.window_switch)
    window = config.get("sliding_window") if counts else None
    if window is not None and window < 1:
        raise Refused(f"{path}: sliding_window={window}: must be positive, or null for none")
    sliding = [False] * layers
    if window is not None or family.window_required:
        sliding = family.sliding_layers(config)
    if config.get("layer_types"):
        named = [kind == "sliding_attention" for kind in config["layer_types"]]
        if set(config["layer_types"]) - {"full_attention", "sliding_attention"} or len(named) != layers:
            raise Refused(f"{path}: layer_types must name each of {layers} layers full_attention or sliding_attention")
        if not family.reads_layer_types and named != sliding:
            raise Refused(
                f"{path}: layer_types has no meaning in {config['model_type']}, and sliding_window says otherwise"
            )
        sliding = named
    if any(sliding) and window is None:
        raise Refused(f"{path}: there are layers of sliding_attention, and no sliding_window")
    return tuple(window if layer_slides else None for layer_slides in sliding)


def _has_bias(bias: Bias, configured: bool | None) -> bool:
    return bias == "always" or (bias == "configured" and bool(configured))


def parse_config(config: HfConfig, *, path: str) -> tuple[DecoderConfig, list[str]]:
    """Reads the fields of a config.json by the record of its family.

    Args:
      config: the parsed JSON, of transformers 4 or 5.
      path: where it comes from, for messages.

    Returns: the decoder's fields, and the names of fields that are unknown here (they are not used).

    Raises:
      Refused: a family, a field or a value that would change the result and is not supported, or a value of
        another kind than the field's.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise Refused(f"{path}: model_type {model_type!r:.80} is not supported ({', '.join(FAMILIES)} are)")
    family = FAMILIES[model_type]
    check_fields(config, path=path)
    missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    missing -= set(config)
    if missing:
        raise Refused(f"{path} lacks {', '.join(sorted(missing))}")
    for name, most in _MOST.items():
        if (config.get(name) or 0) > most:
            raise Refused(f"{path}: {name}={config[name]}: must be at most {most:,}")
    _refuse_unsupported(config, family, path)
    unknown = sorted(set(config) - _HARMLESS - FIELDS)
    config = {**family.defaults, **config}
    activation = config.get(family.activation_field, "silu")
    if activation not in family.activations:
        known = ", ".join(family.activations)
        raise Refused(f"{path}: {family.activation_field}={activation!r:.80} is not supported ({known} are)")
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    if heads % key_value_heads:
        raise Refused(f"{path}: {heads} attention heads cannot share {key_value_heads} key-value heads evenly")
    if head_dim < 1:
        raise Refused(f"{path}: hidden_size={config['hidden_size']} is too small for {heads} attention heads")
    if head_dim % 2:
        raise Refused(f"{path}: head_dim={head_dim} is odd; rotary embeddings need pairs")
    windows = _windows(config, family, path)
    attention_bias = config.get("attention_bias")
    decoder = DecoderConfig(
        model_type=model_type,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        ropes=read_ropes(config, family, [window is not None for window in windows], path),
        windows=windows,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        query_key_value_bias=_has_bias(family.query_key_value_bias, attention_bias),
        output_bias=_has_bias(family.output_bias, attention_bias),
        mlp_bias=_has_bias(family.mlp_bias, config.get("mlp_bias")),
        initializer_range=config.get("initializer_range") or 0.02,  # as transformers has it, for 0 too
        hidden_act=family.activations[activation],
        attention_scale=(config[family.scale_field] if family.scale_field else head_dim) ** -0.5,
        attention_dropout=config.get("attention_dropout") or 0.0,
        resid_pdrop=(config.get("resid_pdrop") or 0.0) if family.residual_dropout else 0.0,
        attn_logit_softcapping=config.get("attn_logit_softcapping"),
        final_logit_softcapping=config.get("final_logit_softcapping"),
        query_key_norm=family.query_key_norm,
        norm_offset=family.norm_offset,
        post_norms=family.post_norms,
        scaled_embedding=family.scaled_embedding,
        fused_projections=family.fused_projections,
        pad_token_id=config.get("pad_token_id"),
    )
    if num_parameters(decoder) > _MOST_PARAMETERS:
        named = ", ".join(f"{name}={getattr(decoder, name)}" for name in ("num_hidden_layers", *_MOST))
        raise Refused(f"{path}: a model of {num_parameters(decoder):.1e} weights, more than any has: {named}")
    return decoder, unknown


def config_file(path: str | Path) -> Path:
    """The config.json, given as the file or as the folder that holds it."""
    return Path(path) / "config.json" if Path(path).is_dir() else Path(path)


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON of a config.json, given as the file or as the folder that holds it.

    Raises:
      Refused: no such file, or not a JSON object, or one with a key twice.
    """
    path = config_file(path)
    if not path.is_file():
        raise Refused(f"{path}: no such file; give a Hugging Face config.json or the folder that holds it")
    return read_object(path, advice="fetch the model again", finite=False)


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
