"""Text from a decoder: greedy, with a cache of keys and values.

Axes: B = prompts, P = longest prompt, M = P + new tokens (the cache's slots), V = vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from train.attention import Keys
from train.hf_config import DecoderConfig
from train.model import Cache, Decoder, empty_cache


def generate(
    definition: nnx.GraphDef,
    params: Any,
    config: DecoderConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
) -> list[list[int]]:
    """Continues each prompt by the most probable token until EOS.

    Args:
      definition, params: a decoder without a sharding constraint on its hidden states.
      prompts: token ids, of any lengths >= 1.

    Returns: the new tokens of each prompt, EOS left out.
    """
    longest = max(map(len, prompts))
    # Prompts end in the same slot, so that one step appends to all of them.
    tokens_BP = np.zeros((len(prompts), longest), np.int32)
    missing_B = np.array([longest - len(prompt) for prompt in prompts], np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[longest - len(prompt) :] = prompt
    new_BT = _generate(definition, config, max_new_tokens, eos_id, params, tokens_BP, missing_B)
    return [row[: row.index(eos_id)] if eos_id in row else row for row in np.asarray(new_BT).tolist()]


_State = tuple[jax.Array, jax.Array, jax.Array, Cache | None]  # tokens so far, the tokens, finished, cache


def _next_token(decoder: Decoder, hidden_BD: jax.Array) -> jax.Array:
    return jnp.argmax(decoder.logits(hidden_BD), -1).astype(jnp.int32)


def _generate_traced(
    definition: nnx.GraphDef,
    config: DecoderConfig,
    max_new_tokens: int,
    eos_id: int,
    params: Any,
    tokens_BP: jax.Array,
    missing_B: jax.Array,
) -> jax.Array:
    decoder: Decoder = nnx.merge(definition, params)
    batch, longest = tokens_BP.shape
    slots = longest + max_new_tokens
    is_token_BM = jnp.arange(slots) >= missing_B[:, None]
    end_BM = jnp.where(is_token_BM, slots, 0)  # every later token sees it; what fills up a prompt is never seen
    position_BM = jnp.maximum(jnp.arange(slots) - missing_B[:, None], 0)
    keys = Keys(position=position_BM, end=end_BM)

    cache: Cache | None = empty_cache(config, batch=batch, slots=slots, dtype=decoder.compute_dtype)
    hidden, cache = decoder.extend(tokens_BP, position_BM[:, :longest], keys, cache)
    first_B = _next_token(decoder, hidden[:, -1])

    def unfinished(state: _State) -> jax.Array:
        count, _, done_B, _ = state
        return (count < max_new_tokens) & ~jnp.all(done_B)

    def one_more(state: _State) -> _State:
        count, new_BT, done_B, cache = state
        newest_B1 = jax.lax.dynamic_slice_in_dim(new_BT, count - 1, 1, axis=1)
        position_B1 = jax.lax.dynamic_slice_in_dim(position_BM, longest + count - 1, 1, axis=1)
        hidden, cache = decoder.extend(newest_B1, position_B1, keys, cache)
        token_B = jnp.where(done_B, eos_id, _next_token(decoder, hidden[:, -1]))
        new_BT = jax.lax.dynamic_update_slice_in_dim(new_BT, token_B[:, None], count, axis=1)
        return count + 1, new_BT, done_B | (token_B == eos_id), cache

    new_BT = jnp.full((batch, max_new_tokens), eos_id, jnp.int32).at[:, 0].set(first_B)
    state = (jnp.int32(1), new_BT, first_B == eos_id, cache)
    return jax.lax.while_loop(unfinished, one_more, state)[1]


_generate = jax.jit(_generate_traced, static_argnums=(0, 1, 2, 3))
