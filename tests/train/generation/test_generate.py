"""Generation with the cache: transformers' answers token for token, whatever a prompt is batched with."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.generation import generate as module
from oddsmill.train.generation.generate import generate
from oddsmill.train.generation.sampling import process_logits
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import load_params
from tests.train.decoders import VOCAB_SIZE, decoder_config, split_decoder

GOLDEN = Path(__file__).parents[2] / "golden"
# Greedy answers of transformers 5.23.0 (float32, eager attention), one prompt at a time without stop ids:
# model -> repetition penalty -> answers to the rows of io.npz. tests/parity/test_generation.py makes them anew.
ANSWERS = json.loads((GOLDEN / "generation.json").read_text())
CONFIG = decoder_config(initializer_range=0.8)
LONGEST = 24


def golden_model(name):
    """Definition, weights, config and prompts of a golden model."""
    config, _ = parse_config(read_config(GOLDEN / "models" / name), path=name)
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    params = load_params(GOLDEN / "models" / name, shapes, shardings, num_layers=config.num_hidden_layers)
    golden = np.load(GOLDEN / "models" / name / "io.npz")
    lengths = golden["attention_mask"].sum(axis=1)
    prompts = [ids[:length].tolist() for ids, length in zip(golden["input_ids"], lengths, strict=True)]
    return definition, params, config, prompts


def ids_of(*arguments, stop_ids=(), batch_size=None, **sampling):
    answers = generate(*arguments, sampling=SamplingConfig(**sampling), stop_ids=stop_ids, batch_size=batch_size)
    return [answer.ids for answer in answers]


# One of each kind of attention; the other models are slow tests.
IN_HASTE = ("llama-gqa-llama3rope-untied", "gemma2-softcap-sliding-tied", "gemma3text-sliding-tied")


@pytest.mark.parametrize(
    "name", [name if name in IN_HASTE else pytest.param(name, marks=pytest.mark.slow) for name in sorted(ANSWERS)]
)
def test_greedy_answers_in_a_batch_are_those_of_transformers_one_by_one(name):
    arguments = golden_model(name)
    assert len({len(prompt) for prompt in arguments[-1]}) == 3
    assert ids_of(*arguments, max_new_tokens=24) == ANSWERS[name]["1.0"]


def test_a_repetition_penalty_is_that_of_transformers_in_batches_of_one():
    name = "gemma2-softcap-sliding-tied"
    assert ANSWERS[name]["1.3"] != ANSWERS[name]["1.0"]
    assert ids_of(*golden_model(name), max_new_tokens=24, repetition_penalty=1.3, batch_size=1) == ANSWERS[name]["1.3"]


@partial(jax.jit, static_argnums=0)
def _next_token(definition, params, ids, count):
    position = jnp.arange(len(ids))[None]
    decoder = nnx.merge(definition, params)
    hidden = decoder(ids[None], position, jnp.where(position < count, count, 0))
    return jnp.argmax(decoder.logits(hidden[0, count - 1]))


def test_a_penalty_is_on_the_tokens_of_the_prompt_and_not_on_what_fills_it_up(decoder):
    definition, params = decoder
    tokens = np.arange(1, VOCAB_SIZE)
    hidden = nnx.merge(definition, params)(
        tokens[:, None], np.zeros((len(tokens), 1), int), np.ones((len(tokens), 1), int)
    )
    sampling = SamplingConfig(max_new_tokens=1, repetition_penalty=0.01)
    logits = nnx.merge(definition, params).logits(hidden[:, 0])
    expected = process_logits(logits, jax.nn.one_hot(tokens, VOCAB_SIZE, dtype=bool), sampling).argmax(axis=1)
    answers = generate(*decoder, CONFIG, tokens[:, None].tolist(), sampling=sampling, stop_ids=[])
    assert [answer.ids for answer in answers] == expected[:, None].tolist()
    assert (expected == tokens).any() and (expected != tokens).any()


def by_whole_forward_passes(definition, params, prompt, max_new_tokens, longest=LONGEST):
    ids = list(prompt)
    for _ in range(max_new_tokens):
        padded = np.pad(np.array(ids, np.int32), (0, longest - len(ids)))
        ids.append(int(_next_token(definition, params, padded, len(ids))))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def decoder():
    return split_decoder(CONFIG)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (1, 7, 4, 12)]


def test_an_answer_ends_at_any_stop_id_and_says_so(decoder, prompts):
    definition, params = decoder
    whole = [by_whole_forward_passes(definition, params, prompt, 10) for prompt in prompts]
    assert len({tuple(answer) for answer in whole}) == len(prompts)
    # Tokens of two answers end these; the others go on to where they meet one, or to the end.
    stop_ids = [whole[0][2], whole[1][5]]
    answers = list(generate(*decoder, CONFIG, prompts, sampling=SamplingConfig(max_new_tokens=10), stop_ids=stop_ids))
    for found, expected in zip(answers, whole, strict=True):
        ends = [index for index, token in enumerate(expected, 1) if token in stop_ids]
        assert found.ids == expected[: ends[0] if ends else None]
        assert found.finish_reason == ("stop" if ends else "length")
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    assert len(answers[0].ids) <= 3 and answers[0].ids[-1] in stop_ids


def test_nothing_is_computed_after_all_answers_ended(decoder, prompts, monkeypatch):
    steps = []
    choose = module.choose

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return choose(*arguments)

    monkeypatch.setattr(module, "choose", counted)
    whole = [by_whole_forward_passes(*decoder, prompt, 11) for prompt in (prompts[1], prompts[2], prompts[1])]
    stop_ids = [whole[0][0], whole[1][3]]
    answers = ids_of(
        *decoder, CONFIG, [prompts[1], prompts[2], prompts[1]], max_new_tokens=11, stop_ids=stop_ids, batch_size=2
    )
    jax.effects_barrier()
    first, second, third = map(len, answers)
    assert first == third == 1 < second < 11
    assert len(steps) == second + 1  # two batches; what fills up the second does not keep it going


def test_prompts_beyond_a_block_of_attention_go_on_as_whole_forward_passes_do():
    config = decoder_config(initializer_range=0.8, model_type="mistral", sliding_window=100)
    definition, params = split_decoder(config)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (230, 3, 129)]
    expected = [by_whole_forward_passes(definition, params, prompt, 6, longest=240) for prompt in prompts]
    assert ids_of(definition, params, config, prompts, max_new_tokens=6) == expected


SAMPLED = {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 7}


def test_drawn_answers_depend_on_the_seed_and_not_on_the_batch(decoder, prompts):
    def drawn(**changes):
        return ids_of(*decoder, CONFIG, prompts, max_new_tokens=8, num_return_sequences=2, **SAMPLED | changes)

    together = drawn()
    assert len(together) == 8
    assert drawn(batch_size=3) == together
    assert drawn(seed=8) != together
    for first, second in zip(together[::2], together[1::2], strict=True):
        assert first != second
    # Two prompts of the same tokens are still two prompts.
    twice = ids_of(*decoder, CONFIG, [prompts[0]] * 2, max_new_tokens=8, **SAMPLED)
    assert twice[0] != twice[1]


def test_lengths_and_seeds_do_not_compile_anew(decoder):
    before = module._generate._cache_size()
    for length, seed in ((3, 0), (17, 1), (32, 2)):
        ids_of(*decoder, CONFIG, [[1] * length] * 3, max_new_tokens=5, **SAMPLED | {"seed": seed}, batch_size=2)
    assert module._generate._cache_size() == before + 1


def test_no_prompts_have_no_answers(decoder):
    assert ids_of(*decoder, CONFIG, [], max_new_tokens=5) == []
