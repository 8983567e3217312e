"""Attention by Triton kernels of our own, on GPUs, with the mask of the one-row layout inside.

Blocks that the mask empties are passed over. The gradients of a block of queries and of a block of keys are made by two
kernels, so that none adds to what another one writes. Sources and the names `m`, `l`, `acc`, `lse` and `delta`: as in
xla.py.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, G = N / K, H = head dimension, a power of
two; Q = queries of a block, P = keys of a block; C = L / block. A kernel is one program for each element of a grid
[B, N or K, C]. Its arguments are references to memory, in the shapes that `_Layout` gives them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from oddsmill.train.attention.mask import after_query_blocks, first_key_blocks, visible
from oddsmill.train.attention.mechanism import Mechanism, WholeRows, Workload, older_gpu
from oddsmill.train.attention.vanilla import softcap_vjp, softcapped

BLOCK = 64

_Ref: TypeAlias = Any  # a reference to memory, for which Pallas has no public type


class _Settings(NamedTuple):
    scale: float
    softcap: float | None
    block: int
    interpret: bool


class _Inputs(NamedTuple):
    query_BLNH: jax.Array
    key_BLKH: jax.Array
    value_BLKH: jax.Array


class _KernelMask(NamedTuple):
    """[B, L] int32 each, and `window` [1] int32; positions and window are None where no layer has a window."""

    end: _Ref
    position: _Ref
    window: _Ref


def _dot(a: jax.Array, b: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    acc_dtype = jnp.promote_types(a.dtype, jnp.float32)
    # Triton would round float32 to tf32.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=acc_dtype)


def _scores(query_QH: jax.Array, key_PH: jax.Array, settings: _Settings) -> jax.Array:
    scores_QP = _dot(query_QH, key_PH, (1, 1)) * settings.scale
    return softcapped(scores_QP, settings.softcap)


def _visible(mask: _KernelMask, query_block: jax.Array, key_block: jax.Array, block: int) -> jax.Array:
    """[Q, P] bool."""
    within = jax.lax.broadcasted_iota(jnp.int32, (block,), 0)
    queries, keys = pl.ds(query_block * block, block), pl.ds(key_block * block, block)
    distance = window = None
    if mask.position is not None:
        distance, window = mask.position[queries][:, None] - mask.position[keys][None, :], mask.window[0]
    return visible(
        (query_block * block + within)[:, None],
        (key_block * block + within)[None, :],
        mask.end[keys][None, :],
        distance=distance,
        window=window,
    )


def _forward_kernel(
    query: _Ref, key: _Ref, value: _Ref, mask: _KernelMask, first: _Ref, output: _Ref, lse: _Ref, *, settings: _Settings
) -> None:
    block, query_block, query_QH = settings.block, pl.program_id(2), query[...]
    acc_dtype = lse.dtype
    mask_value = float(jnp.finfo(acc_dtype).min)

    def one_key_block(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        m_Q, l_Q, acc_QH = carry
        keys = pl.ds(key_block * block, block)
        mask_QP = _visible(mask, query_block, key_block, block)
        scores_QP = jnp.where(mask_QP, _scores(query_QH, key[keys], settings), mask_value)
        new_m_Q = jnp.maximum(m_Q, jnp.max(scores_QP, axis=1))
        weights_QP = jnp.where(mask_QP, jnp.exp(scores_QP - new_m_Q[:, None]), 0.0)
        rescale_Q = jnp.exp(m_Q - new_m_Q)
        value_PH = value[keys]
        acc_QH = acc_QH * rescale_Q[:, None] + _dot(weights_QP.astype(value_PH.dtype), value_PH, (1, 0))
        return new_m_Q, l_Q * rescale_Q + jnp.sum(weights_QP, axis=1), acc_QH

    start = (
        jnp.full((block,), mask_value, acc_dtype),
        jnp.zeros((block,), acc_dtype),
        jnp.zeros(query_QH.shape, acc_dtype),
    )
    m_Q, l_Q, acc_QH = jax.lax.fori_loop(first[query_block], query_block + 1, one_key_block, start)
    has_seen_Q = l_Q > 0
    l_Q = jnp.where(has_seen_Q, l_Q, 1.0)
    output[...] = (acc_QH / l_Q[:, None]).astype(output.dtype)
    lse[...] = jnp.where(has_seen_Q, m_Q + jnp.log(l_Q), 0.0)


class _Backward(NamedTuple):
    """The inputs of the backward kernels: whole arrays, their block specs, references to them, or one block of each."""

    query: _Ref
    key: _Ref
    value: _Ref
    d_output: _Ref
    lse: _Ref
    delta: _Ref


def _weights_and_d_scores(block: _Backward, mask_QP: jax.Array, settings: _Settings) -> tuple[jax.Array, jax.Array]:
    """The softmax's weights, and the gradient in the dot products of queries and keys; [Q, P] each."""
    scores_QP = _scores(block.query, block.key, settings)
    weights_QP = jnp.where(mask_QP, jnp.exp(scores_QP - block.lse[:, None]), 0.0)
    d_scores_QP = weights_QP * (_dot(block.d_output, block.value, (1, 1)) - block.delta[:, None])
    d_scores_QP = softcap_vjp(d_scores_QP, scores_QP, settings.softcap) * settings.scale
    return weights_QP.astype(block.query.dtype), d_scores_QP.astype(block.query.dtype)


def _d_query_kernel(refs: _Backward, mask: _KernelMask, first: _Ref, d_query: _Ref, *, settings: _Settings) -> None:
    block, query_block = settings.block, pl.program_id(2)
    query_QH, d_output_QH, lse_Q, delta_Q = refs.query[...], refs.d_output[...], refs.lse[...], refs.delta[...]

    def one_key_block(key_block: jax.Array, total_QH: jax.Array) -> jax.Array:
        keys = pl.ds(key_block * block, block)
        inputs = _Backward(query_QH, refs.key[keys], refs.value[keys], d_output_QH, lse_Q, delta_Q)
        mask_QP = _visible(mask, query_block, key_block, block)
        _, d_scores_QP = _weights_and_d_scores(inputs, mask_QP, settings)
        return total_QH + _dot(d_scores_QP, inputs.key, (1, 0))

    start = jnp.zeros(query_QH.shape, lse_Q.dtype)
    total_QH = jax.lax.fori_loop(first[query_block], query_block + 1, one_key_block, start)
    d_query[...] = total_QH.astype(d_query.dtype)


def _d_key_value_kernel(
    refs: _Backward, mask: _KernelMask, after: _Ref, d_key: _Ref, d_value: _Ref, *, settings: _Settings
) -> None:
    block, key_block = settings.block, pl.program_id(2)
    key_PH, value_PH = refs.key[...], refs.value[...]

    def one_query_block(
        head: jax.Array, query_block: jax.Array, totals: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, ...]:
        at = pl.ds(query_block * block, block)
        query_QH, d_output_QH = refs.query[at, head], refs.d_output[at, head]
        inputs = _Backward(query_QH, key_PH, value_PH, d_output_QH, refs.lse[head, at], refs.delta[head, at])
        mask_QP = _visible(mask, query_block, key_block, block)
        weights_QP, d_scores_QP = _weights_and_d_scores(inputs, mask_QP, settings)
        return totals[0] + _dot(d_scores_QP, query_QH, (0, 0)), totals[1] + _dot(weights_QP, d_output_QH, (0, 0))

    def one_head(head: jax.Array, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return jax.lax.fori_loop(key_block, after[key_block], partial(one_query_block, head), totals)

    zeros_PH = jnp.zeros(key_PH.shape, refs.lse.dtype)
    d_key_PH, d_value_PH = jax.lax.fori_loop(0, refs.query.shape[1], one_head, (zeros_PH, zeros_PH))
    d_key[...] = d_key_PH.astype(d_key.dtype)
    d_value[...] = d_value_PH.astype(d_value.dtype)


class _Layout(NamedTuple):
    """The part of an array that a program sees: that of row b, head n and block c of the grid [B, heads, C]."""

    length: int
    groups: int
    dim: int
    block: int

    @property
    def by_row(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length), lambda b, n, c: (b, 0))

    @property
    def bounds(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length // self.block), lambda b, n, c: (b, 0))

    @property
    def block_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.block, None, self.dim), lambda b, n, c: (b, c, n, 0))

    @property
    def number_of_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, self.block), lambda b, n, c: (b, n, c))

    @property
    def row_of_key_head(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, None, self.dim), lambda b, n, c: (b, 0, n // self.groups, 0))

    @property
    def row_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length, self.groups, self.dim), lambda b, k, c: (b, 0, k, 0))

    @property
    def numbers_of_groups(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.groups, self.length), lambda b, k, c: (b, k, 0))

    def mask(self, mask: _KernelMask) -> _KernelMask:
        has_window = mask.position is not None
        window = pl.BlockSpec((1,), lambda b, n, c: (0,))
        return _KernelMask(self.by_row, self.by_row if has_window else None, window if has_window else None)


def _call(
    kernel: Callable[..., None],
    settings: _Settings,
    inputs: Any,
    in_specs: Any,
    out_specs: Any,
    out_shape: Any,
    grid: Any,
) -> Any:
    call = pl.pallas_call(
        partial(kernel, settings=settings),
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=settings.interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    )
    return call(*inputs)


def _layout(inputs: _Inputs, block: int) -> _Layout:
    (_, length, heads, dim), key_heads = inputs.query_BLNH.shape, inputs.key_BLKH.shape[2]
    return _Layout(length, heads // key_heads, dim, block)


def _forward(inputs: _Inputs, mask: _KernelMask, settings: _Settings) -> tuple[jax.Array, Any]:
    query, _, value = inputs
    batch, length, heads, _ = query.shape
    layout = _layout(inputs, settings.block)
    acc_dtype = jnp.promote_types(query.dtype, jnp.float32)
    output, lse = _call(
        _forward_kernel,
        settings,
        (*inputs, mask, first_key_blocks(mask.end, settings.block)),
        [layout.block_of_head, layout.row_of_key_head, layout.row_of_key_head, layout.mask(mask), layout.bounds],
        (layout.block_of_head, layout.number_of_head),
        (jax.ShapeDtypeStruct(query.shape, value.dtype), jax.ShapeDtypeStruct((batch, heads, length), acc_dtype)),
        (batch, heads, length // settings.block),
    )
    return output, (inputs, mask, output, lse)


def _backward(settings: _Settings, saved: Any, d_output: jax.Array) -> tuple[_Inputs, None]:
    inputs, mask, output, lse = saved
    query, key, value = inputs
    (batch, _, heads, _), key_heads, blocks = query.shape, key.shape[2], query.shape[1] // settings.block
    layout = _layout(inputs, settings.block)
    delta = jnp.einsum("blnh,blnh->bnl", d_output.astype(lse.dtype), output.astype(lse.dtype))
    arrays = _Backward(query, key, value, d_output, lse, delta)
    of_head, number, key_row = layout.block_of_head, layout.number_of_head, layout.row_of_key_head
    d_query = _call(
        _d_query_kernel,
        settings,
        (arrays, mask, first_key_blocks(mask.end, settings.block)),
        [_Backward(of_head, key_row, key_row, of_head, number, number), layout.mask(mask), layout.bounds],
        of_head,
        jax.ShapeDtypeStruct(query.shape, query.dtype),
        (batch, heads, blocks),
    )
    rows, numbers = layout.row_of_groups, layout.numbers_of_groups
    d_key, d_value = _call(
        _d_key_value_kernel,
        settings,
        (arrays, mask, after_query_blocks(mask.end, settings.block)),
        [_Backward(rows, of_head, of_head, rows, numbers, numbers), layout.mask(mask), layout.bounds],
        (of_head, of_head),
        (jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(value.shape, value.dtype)),
        (batch, key_heads, blocks),
    )
    return _Inputs(d_query, d_key, d_value), None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blockwise(inputs: _Inputs, mask: _KernelMask, settings: _Settings) -> jax.Array:
    return _forward(inputs, mask, settings)[0]


_blockwise.defvjp(_forward, _backward)


def pallas_attention(
    rows: WholeRows, scale: float, softcap: float | None, *, block: int = BLOCK, interpret: bool = False
) -> jax.Array:
    """`Mechanism.compute`, for rows whose length is a multiple of `block`.

    Args:
      interpret: runs the kernel's program on any device, slowly.
    """
    query, key, value, keys, window = rows
    by_window = (None, None) if window is None else (keys.position, window.reshape(1))
    mask = _KernelMask(keys.end, *by_window)
    return _blockwise(_Inputs(query, key, value), mask, _Settings(scale, softcap, block, interpret))


def _limits(workload: Workload) -> str | None:
    dim = workload.head_dim
    if problem := older_gpu(workload):
        return problem
    if dim & (dim - 1) or not 16 <= dim <= 256:
        return f"heads have {dim} dimensions; it wants a power of two from 16 to 256"
    return None


PALLAS = Mechanism(name="pallas", compute=pallas_attention, platform="gpu", length_multiple=BLOCK, limits=_limits)
