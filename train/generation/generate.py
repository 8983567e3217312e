"""A decoder's answers to prompts: one compiled function, the prompts at once, then token by token with a cache.

Axes: B = rows of a batch (an answer each), P = slots of the longest prompt, M = P + new tokens (the cache's slots),
T = new tokens, S = stop ids, V = vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from oddsmill.train.attention.mask import Keys
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.generation.sampling import choose
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.model.layers import Cache, empty_cache
from oddsmill.train.model.names import Params

_SHORTEST_BUCKET = 32  # slots of the prompts of a batch, at least


class Answer(NamedTuple):
    """One answer.

    Attributes:
      ids: the new tokens; the last one is the stop id if the answer met one.
      finish_reason: `stop` at a stop id, `length` at `max_new_tokens`.
    """

    ids: list[int]
    finish_reason: Literal["stop", "length"]


def generate(
    definition: nnx.GraphDef,
    params: Params,
    config: DecoderConfig,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    stop_ids: Sequence[int],
    batch_size: int | None = None,
    row_sharding: NamedSharding | None = None,
) -> Iterator[Answer]:
    """Answers each prompt `num_return_sequences` times, in order.

    The length of the prompts is rounded up to a power of two and a last short batch is filled up, so that a file of
    prompts compiles a few times and not for each of its lengths. What a prompt is batched with changes its answer by
    rounding alone: where the logits of two tokens are that close, either may be taken.

    Args:
      definition, params, config: the decoder.
      prompts: token ids, of any lengths >= 1.
      stop_ids: the tokens that end an answer.
      batch_size: answers at once; None: all of them.
      row_sharding: lays the rows of a batch over a mesh; a batch is made a multiple of its devices.
    """
    answers = [(number, sample) for number in range(len(prompts)) for sample in range(sampling.num_return_sequences)]
    size = min(batch_size or len(answers), len(answers))
    if row_sharding is not None:
        size = -(-size // row_sharding.num_devices) * row_sharding.num_devices
    for start in range(0, len(answers), size or 1):
        batch = answers[start : start + size]
        filled = batch + batch[-1:] * (size - len(batch))  # copies of the last one end when it does
        tokens_BP, padding_B = _left_padded([prompts[number] for number, _ in filled])
        arrays = (tokens_BP, padding_B, _row_keys(sampling.seed, filled))
        if row_sharding is not None:
            arrays = jax.device_put(arrays, row_sharding)
        # The keys hold the seed and the number of answers; other ones of these must not compile anew.
        settings = replace(sampling, seed=0, num_return_sequences=1)
        new_BT = _generate(definition, config, settings, params, np.array(stop_ids, np.int32), *arrays)
        for ids in np.asarray(new_BT)[: len(batch)].tolist():
            end = next((index for index, token in enumerate(ids, 1) if token in stop_ids), None)
            yield Answer(ids[:end], "length" if end is None else "stop")


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, P] that all end in the last slot, so that one step appends to all, and [B] slots of padding before."""
    slots = max(_SHORTEST_BUCKET, 1 << (max(map(len, prompts)) - 1).bit_length())
    tokens_BP = np.zeros((len(prompts), slots), np.int32)
    padding_B = np.array([slots - len(prompt) for prompt in prompts], np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[slots - len(prompt) :] = prompt
    return tokens_BP, padding_B


def _row_keys(seed: int, answers: Sequence[tuple[int, int]]) -> jax.Array:
    """One key an answer, made from its prompt's number and its own among the answers to that prompt."""

    def row_key(number: jax.Array, sample: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), sample)

    return jax.vmap(row_key)(*jnp.array(answers, jnp.uint32).T)


class _State(NamedTuple):
    """The state between two tokens.

    Attributes:
      length: int32 scalar, new tokens so far.
      new: [B, T] int32, the new tokens.
      done: [B] bool, rows that met a stop id.
      seen: [B, V] bool, tokens that stand in prompt or answer; None where no penalty needs them.
      cache: keys and values of prompt and answer.
    """

    length: jax.Array
    new: jax.Array
    done: jax.Array
    seen: jax.Array | None
    cache: Cache


@partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    definition: nnx.GraphDef,
    config: DecoderConfig,
    sampling: SamplingConfig,
    params: Params,
    stop_S: jax.Array,
    tokens_BP: jax.Array,
    padding_B: jax.Array,
    keys_B: jax.Array,
) -> jax.Array:
    """The new tokens [B, T] int32; what follows a stop id means nothing.

    Args:
      tokens_BP, padding_B: as `_left_padded` makes them.
      keys_B: one random key a row.
    """
    decoder: Decoder = nnx.merge(definition, params)
    batch, longest = tokens_BP.shape
    slots = longest + sampling.max_new_tokens
    is_token_BM = jnp.arange(slots) >= padding_B[:, None]
    end_BM = jnp.where(is_token_BM, slots, 0)  # every later token sees a token, none sees padding
    position_BM = jnp.maximum(jnp.arange(slots) - padding_B[:, None], 0)
    keys = Keys(position=position_BM, end=end_BM)

    def append(state: _State, hidden_BLD: jax.Array) -> _State:
        logits_BV = decoder.logits(hidden_BLD[:, -1])
        keys_now_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, state.length)
        token_B = choose(logits_BV, state.seen, keys_now_B, sampling)
        return _State(
            length=state.length + 1,
            new=jax.lax.dynamic_update_slice_in_dim(state.new, token_B[:, None], state.length, axis=1),
            done=state.done | (token_B[:, None] == stop_S).any(axis=1),
            seen=None if state.seen is None else state.seen.at[jnp.arange(batch), token_B].set(True),
            cache=state.cache,
        )

    def next_token(state: _State) -> _State:
        newest_B1 = jax.lax.dynamic_slice_in_dim(state.new, state.length - 1, 1, axis=1)
        position_B1 = jax.lax.dynamic_slice_in_dim(position_BM, longest + state.length - 1, 1, axis=1)
        hidden, cache = decoder.extend(newest_B1, position_B1, keys, state.cache)
        assert cache is not None
        return append(state._replace(cache=cache), hidden)

    def unfinished(state: _State) -> jax.Array:
        return (state.length < sampling.max_new_tokens) & ~jnp.all(state.done)

    # At first the cache is as long as the prompts: attention over as many keys as queries is that of whole rows.
    cache: Cache | None = empty_cache(config, batch=batch, slots=longest, dtype=decoder.compute_dtype)
    prompt_keys = Keys(*(array[:, :longest] for array in keys))
    hidden, cache = decoder.extend(tokens_BP, prompt_keys.position, prompt_keys, cache)
    assert cache is not None
    new_slots = [(0, 0), (0, 0), (0, sampling.max_new_tokens), (0, 0), (0, 0)]
    cache = cache._replace(key=jnp.pad(cache.key, new_slots), value=jnp.pad(cache.value, new_slots))

    seen_BV = None
    if sampling.repetition_penalty != 1:
        seen_BV = jnp.zeros((batch, config.vocab_size), bool)
        seen_BV = seen_BV.at[jnp.arange(batch)[:, None], tokens_BP].max(is_token_BM[:, :longest])
    new_BT = jnp.zeros((batch, sampling.max_new_tokens), jnp.int32)
    state = _State(length=jnp.int32(0), new=new_BT, done=jnp.zeros(batch, bool), seen=seen_BV, cache=cache)
    return jax.lax.while_loop(unfinished, next_token, append(state, hidden)).new
