"""LoRA: trained low-rank adapters beside the linear layers of a frozen model, under PEFT's names.

Dropout: each adapter draws a mask over its input [L, in] for every row. The mask depends on the seed, the step, the
tokens of the row, the layer and the adapter, and on nothing else, so micro-batches, devices, processes, a resumed run
and a layer that the backward pass computes again all draw the same. In the one-row layout a prompt is computed once, so
both sides share its masks, as they share all of its values; the answers have their own.

Source: Hu et al. 2021 (arXiv:2106.09685); rsLoRA's scaling: Kalajdzievski 2023 (arXiv:2312.03732).
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.train.config.model import LoraConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.frozen import join_params, select
from oddsmill.train.model.layers import Linear, LoRA
from oddsmill.train.model.names import Params, WeightPath, hf_names

_ADAPTER = "adapter"  # the attribute of a linear layer that holds its adapter


def adapter_scaling(lora: LoraConfig) -> float:
    """Returns alpha / rank; with rsLoRA alpha / sqrt(rank)."""
    return lora.alpha / (lora.rank**0.5 if lora.use_rslora else lora.rank)


def linear_layers(decoder: Decoder) -> dict[WeightPath, Linear]:
    """Returns the linear layers of attention and MLP by path; each is stacked over the decoder's layers."""
    modules = nnx.iter_modules(decoder.layers)
    found = {("layers", *map(str, path)): module for path, module in modules if isinstance(module, Linear)}
    return dict(sorted(found.items()))


def add_adapters(decoder: Decoder, lora: LoraConfig, *, param_dtype: jnp.dtype, rngs: nnx.Rngs) -> Decoder:
    """Gives the targeted linear layers adapters that change no result yet, and returns the decoder.

    A is uniform in +-1 / sqrt(in) and B zero, as PEFT initialises them (kaiming uniform with a = sqrt(5)).

    Raises:
      Refused: a target matches no linear layer, or not the same ones in every layer.
    """
    linears = linear_layers(decoder)
    targets = set(linears)
    if lora.targets is not None:
        names = {path: hf_names(path, decoder.config.num_hidden_layers) for path in linears}
        targets = select("lora.target_modules", lora.targets, names, _is_target)
    for stream, path in enumerate(sorted(targets)):
        layers, out_dim, in_dim = linears[path].weight.shape
        bound = in_dim**-0.5
        shape = (layers, lora.rank, in_dim)
        adapter = LoRA(
            jax.random.uniform(rngs.params(), shape, param_dtype, minval=-bound, maxval=bound),
            jnp.zeros((layers, out_dim, lora.rank), param_dtype),
            scaling=adapter_scaling(lora),
            dropout=lora.dropout,
            stream=stream,
        )
        linears[path].adapter = nnx.data(adapter)
    return decoder


def _is_target(target: str, name: str) -> bool:
    """Returns whether PEFT would take the module: its name ends with the target, at a dot, or matches it as a whole."""
    return f".{name}".endswith(f".{target}") or re.fullmatch(target, name) is not None


def is_adapter(path: WeightPath) -> bool:
    """Returns whether a weight belongs to an adapter."""
    return _ADAPTER in path


def lora_matrices(params: Params) -> dict[WeightPath, dict[str, jax.Array]]:
    """Returns, by the path of the linear layer, its `lora_A` [layers, rank, in] and `lora_B` [layers, out, rank]."""
    found: dict[WeightPath, dict[str, jax.Array]] = {}
    for path, leaf in flatten_dict(params).items():
        found.setdefault(path[:-2], {})[path[-1]] = leaf
    return found


def merge_lora(params: Params, frozen: Params, lora: LoraConfig | None, *, dtype: str | None = None) -> Params:
    """Returns the weights W + scaling * B A of a model without adapters that computes the same.

    The sum is computed in float32 or wider and rounded once.

    Args:
      params: the adapters; where `lora` is None the trained weights, which are only joined with the frozen ones.
      frozen: the base weights. Those with an adapter are donated to the result, since a device that the model fills
        has no room for a second one.
      dtype: dtype that the sum is rounded to; None keeps the dtype of W.
    """
    if lora is None:
        return join_params(params, frozen)
    merged = flatten_dict(frozen)
    for path, adapter in lora_matrices(params).items():
        weight = merged[(*path, "weight")]
        rounded = jnp.dtype(dtype or weight.dtype)
        in_place = (0,) if rounded == weight.dtype else ()
        merge = jax.jit(partial(_merge, dtype=rounded), donate_argnums=in_place, out_shardings=weight.sharding)
        merged[(*path, "weight")] = merge(weight, adapter["lora_A"], adapter["lora_B"], adapter_scaling(lora))
    return unflatten_dict(merged)


def _merge(
    weight: jax.Array, lora_A: jax.Array, lora_B: jax.Array, scaling: jax.Array, *, dtype: jnp.dtype
) -> jax.Array:
    acc_dtype = jnp.promote_types(lora_A.dtype, jnp.float32)

    def one_layer(_: None, layer: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        W, A, B = layer
        change = jnp.einsum("or,ri->oi", B.astype(acc_dtype), A.astype(acc_dtype), precision="highest")
        return None, (W.astype(acc_dtype) + scaling * change).astype(dtype)

    # One layer at a time: of all layers at once, the change in float32 would take twice the memory of the weights.
    return jax.lax.scan(one_layer, None, (weight, lora_A, lora_B))[1]
