"""Generation with the cache equals generation by whole forward passes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.train.decoders import VOCAB_SIZE, decoder_config, split_decoder
from train.generate import generate

CONFIG = decoder_config(initializer_range=0.8)


LONGEST = 24


def by_whole_forward_passes(definition, params, prompt, max_new_tokens, eos_id):
    @jax.jit
    def next_token(ids, count):
        position = jnp.arange(LONGEST)[None]
        decoder = nnx.merge(definition, params)
        hidden = decoder(ids[None], position, jnp.where(position < count, count, 0))
        return jnp.argmax(decoder.logits(hidden[0, count - 1]))

    ids = list(prompt)
    for _ in range(max_new_tokens):
        padded = np.pad(np.array(ids, np.int32), (0, LONGEST - len(ids)))
        ids.append(int(next_token(padded, len(ids))))
        if ids[-1] == eos_id:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_cached_generation_equals_whole_forward_passes_for_prompts_of_unequal_length():
    definition, params = split_decoder(CONFIG)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (1, 7, 4, 12)]
    expected = [by_whole_forward_passes(definition, params, prompt, 10, eos_id=-1) for prompt in prompts]
    assert len({tuple(answer) for answer in expected}) == len(prompts)
    assert generate(definition, params, CONFIG, prompts, max_new_tokens=10, eos_id=-1) == expected
    # The third token of the first answer as EOS: that answer ends there, the others where they meet it.
    eos_id = expected[0][2]
    stopped = [by_whole_forward_passes(definition, params, prompt, 10, eos_id=eos_id) for prompt in prompts]
    assert len(stopped[0]) <= 2
    assert generate(definition, params, CONFIG, prompts, max_new_tokens=10, eos_id=eos_id) == stopped
