"""Attention by Triton kernels of our own, on GPUs, with the rule of the one-row layout inside.

Blocks that the rule empties are passed over. Source of the scheme: Dao 2023 (FlashAttention-2, arXiv:2307.08691),
Algorithms 1 and 2; gradients of a block of queries and of a block of keys are made by two kernels, so that none adds to
what another one writes.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, G = N / K, H = head dimension, a power of
two; Q = queries of a block, P = keys of a block, both `BLOCK` of train/attention/triton.py; C = L / `BLOCK`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from oddsmill.train.attention import triton as attention_triton
from oddsmill.train.attention.mask import Keys, after_query_blocks, first_key_blocks
from oddsmill.train.attention.triton import (
    KernelMask,
    Scoring,
    forward_kernel,
    key_gradients_kernel,
    query_gradient_kernel,
)


def _call(
    kernel: Callable[..., None], inputs: Any, in_specs: Any, out_specs: Any, out_shape: Any, grid: Any, interpret: bool
) -> Any:
    call = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )
    return call(*inputs)


class _Layout(NamedTuple):
    """Which part of an array a program sees: that of row b, head n and block c of the grid [B, heads, C]."""

    length: int
    groups: int
    dim: int

    @property
    def by_row(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length), lambda b, n, c: (b, 0))

    @property
    def bounds(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length // attention_triton.BLOCK), lambda b, n, c: (b, 0))

    @property
    def block_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, attention_triton.BLOCK, None, self.dim), lambda b, n, c: (b, c, n, 0))

    @property
    def number_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, attention_triton.BLOCK), lambda b, n, c: (b, n, c))

    @property
    def row_of_key_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, None, self.dim), lambda b, n, c: (b, 0, n // self.groups, 0))

    @property
    def row_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, self.groups, self.dim), lambda b, k, c: (b, 0, k, 0))

    @property
    def numbers_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.groups, self.length), lambda b, k, c: (b, k, 0))

    def mask(self, mask: KernelMask) -> KernelMask:
        has_window = mask.position is not None
        window = pl.BlockSpec((1,), lambda b, n, c: (0,))
        return KernelMask(self.by_row, self.by_row if has_window else None, window if has_window else None)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def pallas_attention(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    keys: Keys,
    window: jax.Array | None,
    scale: float,
    softcap: float | None,
    interpret: bool,
) -> jax.Array:
    """`attention.mechanisms.attention` of whole rows, L a multiple of `attention_triton.BLOCK`; [B, L, N, H].

    Args:
      interpret: runs the kernel's program on any device, slowly.
    """
    return _forward(query_BLNH, key_BLKH, value_BLKH, keys, window, scale, softcap, interpret)[0]


def _layout(query: jax.Array, key: jax.Array) -> _Layout:
    return _Layout(query.shape[1], query.shape[2] // key.shape[2], query.shape[3])


def _mask(keys: Keys, window: jax.Array | None) -> KernelMask:
    return KernelMask(keys.end, *((None, None) if window is None else (keys.position, window.reshape(1))))


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, keys: Keys, window: jax.Array | None, scale: float,
    softcap: float | None, interpret: bool,
) -> tuple[jax.Array, Any]:  # fmt: skip
    batch, length, heads, _ = query.shape
    layout, mask = _layout(query, key), _mask(keys, window)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    output, lse = _call(
        partial(forward_kernel, scoring=Scoring(scale, softcap)),
        (query, key, value, mask, first_key_blocks(keys.end, attention_triton.BLOCK)),
        [layout.block_of_head, layout.row_of_key_head, layout.row_of_key_head, layout.mask(mask), layout.bounds],
        (layout.block_of_head, layout.number_of_head),
        (jax.ShapeDtypeStruct(query.shape, value.dtype), jax.ShapeDtypeStruct((batch, heads, length), wide)),
        (batch, heads, length // attention_triton.BLOCK),
        interpret,
    )
    return output, (query, key, value, keys, window, output, lse)


def _backward(scale: float, softcap: float | None, interpret: bool, saved: Any, slope: jax.Array) -> Any:
    query, key, value, keys, window, output, lse = saved
    batch, length, heads, _ = query.shape
    layout, mask, scoring = _layout(query, key), _mask(keys, window), Scoring(scale, softcap)
    dot = jnp.einsum("blnh,blnh->bnl", slope.astype(lse.dtype), output.astype(lse.dtype))
    inputs, blocks = (query, key, value, slope, lse, dot, mask), length // attention_triton.BLOCK
    query_gradient = _call(
        partial(query_gradient_kernel, scoring=scoring),
        (*inputs, first_key_blocks(keys.end, attention_triton.BLOCK)),
        [
            layout.block_of_head, layout.row_of_key_head, layout.row_of_key_head, layout.block_of_head,
            layout.number_of_head, layout.number_of_head, layout.mask(mask), layout.bounds,
        ],
        layout.block_of_head,
        jax.ShapeDtypeStruct(query.shape, query.dtype),
        (batch, heads, blocks),
        interpret,
    )  # fmt: skip
    key_gradient, value_gradient = _call(
        partial(key_gradients_kernel, scoring=scoring),
        (*inputs, after_query_blocks(keys.end, attention_triton.BLOCK)),
        [
            layout.row_of_groups, layout.block_of_head, layout.block_of_head, layout.row_of_groups,
            layout.numbers_of_groups, layout.numbers_of_groups, layout.mask(mask), layout.bounds,
        ],
        (layout.block_of_head, layout.block_of_head),
        (jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(value.shape, value.dtype)),
        (batch, key.shape[2], blocks),
        interpret,
    )  # fmt: skip
    return query_gradient, key_gradient, value_gradient, None, None


pallas_attention.defvjp(_forward, _backward)
