"""Generation beside live transformers: greedy answers, and each logits processor beside its class."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.generation import logits_process

from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.generation.sampling import keep_top_k, keep_top_p, penalize_repetition, process_logits
from tests.train.generation.test_generate import ANSWERS, GOLDEN, golden_model, ids_of

pytestmark = pytest.mark.parity


def greedy_of_transformers(name: str, prompts: list[list[int]], **options) -> list[list[int]]:
    folder = Path(GOLDEN) / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None} | options
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        answers.append(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist())
    return answers


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_golden_answers_are_those_of_transformers(name):
    prompts = golden_model(name)[-1]
    for penalty, answers in ANSWERS[name].items():
        assert greedy_of_transformers(name, prompts, max_new_tokens=24, repetition_penalty=float(penalty)) == answers


@pytest.mark.parametrize("name", ["llama-gqa-llama3rope-untied", "gemma3text-sliding-tied"])
def test_greedy_with_a_penalty_and_stop_ids_is_transformers(name):
    *model, prompts = golden_model(name)
    prompts = [prompt[: 5 + 7 * number] for number, prompt in enumerate(prompts)]
    options = {"max_new_tokens": 40, "repetition_penalty": 1.2}
    unstopped = greedy_of_transformers(name, prompts, **options)
    stop_ids = sorted({unstopped[0][9], unstopped[1][20]})
    expected = greedy_of_transformers(name, prompts, eos_token_id=stop_ids, **options)
    assert expected != unstopped
    assert ids_of(*model, prompts, stop_ids=stop_ids, **options) == expected


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 4, (16, 300)).astype(np.float32)


@pytest.fixture
def prompt_ids():
    return np.random.default_rng(1).integers(0, 300, (16, 40))


def of_transformers(processors, prompt_ids, logits):
    scores = torch.tensor(logits)
    for processor in processors:
        scores = processor(torch.tensor(prompt_ids), scores)
    return scores.numpy()


def seen_of(prompt_ids, vocab_size):
    seen = np.zeros((len(prompt_ids), vocab_size), bool)
    np.put_along_axis(seen, prompt_ids, True, axis=1)
    return jnp.asarray(seen)


@pytest.mark.parametrize("penalty", [0.7, 1.5])
def test_the_repetition_penalty(logits, prompt_ids, penalty):
    expected = of_transformers([logits_process.RepetitionPenaltyLogitsProcessor(penalty)], prompt_ids, logits)
    np.testing.assert_array_max_ulp(
        np.asarray(penalize_repetition(logits, seen_of(prompt_ids, 300), penalty)), expected, maxulp=1
    )


@pytest.mark.parametrize("k", [1, 5, 50, 1000])
def test_top_k(logits, prompt_ids, k):
    logits = np.round(logits)  # equals of the last stay
    expected = of_transformers([logits_process.TopKLogitsWarper(k)], prompt_ids, logits)
    np.testing.assert_array_equal(keep_top_k(logits, k), expected)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_top_p(logits, prompt_ids, p):
    expected = of_transformers([logits_process.TopPLogitsWarper(p)], prompt_ids, logits)
    np.testing.assert_array_equal(keep_top_p(logits, p), expected)


def test_all_together(logits, prompt_ids):
    processors = [
        logits_process.RepetitionPenaltyLogitsProcessor(1.3),
        logits_process.TemperatureLogitsWarper(0.7),
        logits_process.TopKLogitsWarper(20),
        logits_process.TopPLogitsWarper(0.9),
    ]
    sampling = SamplingConfig(do_sample=True, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3)
    found = process_logits(logits, seen_of(prompt_ids, 300), sampling)
    np.testing.assert_allclose(found, of_transformers(processors, prompt_ids, logits), rtol=1e-6)


def test_our_order_is_the_one_that_transformers_puts_them_in(tmp_path):
    folder = GOLDEN / "models" / "qwen2-qkvbias-tied"
    model = AutoModelForCausalLM.from_pretrained(folder)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3}
    model.generation_config.update(**settings)
    model._prepare_special_tokens(model.generation_config, True, device="cpu")
    processors = model._get_logits_processor(model.generation_config, input_ids_seq_length=4)
    assert [type(processor).__name__ for processor in processors] == [
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
    ]


def test_our_defaults_are_those_of_transformers():
    from transformers import GenerationConfig

    defaults = GenerationConfig()._get_default_generation_params()
    sampling = SamplingConfig()
    for name in ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "num_return_sequences"):
        assert getattr(sampling, name) == defaults[name], json.dumps(defaults)
