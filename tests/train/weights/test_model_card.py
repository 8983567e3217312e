"""The card of a model says what it was trained on and how, and names nothing of the machine.

What the hub reads of the card of a finished run: tests/train/weights/test_export.py.
"""

from functools import partial

import numpy as np
import pytest
from huggingface_hub import ModelCard

from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.weights.model_card import model_card, portable_settings
from tests.datasets import random_pairs, write_dataset
from tests.train.decoders import VOCAB_SIZE, decoder_config


def test_the_card_counts_the_pairs_that_were_trained_on_and_those_that_were_measured(tmp_path):
    pairs = [[pair] for pair in random_pairs(np.random.default_rng(0), 12, vocab_size=VOCAB_SIZE)]
    sizes = {"row_length": 32, "vocab_size": VOCAB_SIZE}
    trained = write_dataset(tmp_path / "a", {"train": pairs[:5], "eval": pairs[5:6]}, **sizes)
    measured = write_dataset(tmp_path / "b", {"train": pairs[:4], "eval": pairs[6:9]}, **sizes)
    for of_eval, count in ((trained, 1), (measured, 3)):
        card = model_card(
            model=ModelConfig(path="m"),
            lora=None,
            loss=Orpo(beta=0.1),
            settings={"loss": "orpo", "beta": 0.1},
            metrics={},
            manifest=trained,
            eval_manifest=of_eval,
            decoder=decoder_config(),
            step=1,
        )
        assert "| train | 5 |" in card and f"| eval | {count} |" in card
        assert trained.sha256 in card and of_eval.sha256 in card
    assert card.count("whose eval split was measured") == 1


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A card of any model with the other arguments fixed."""
    pairs = [[pair] for pair in random_pairs(np.random.default_rng(0), 4, vocab_size=VOCAB_SIZE)]
    manifest = write_dataset(tmp_path_factory.mktemp("data"), {"train": pairs}, row_length=32, vocab_size=VOCAB_SIZE)
    return partial(
        model_card,
        loss=Orpo(beta=0.1),
        settings={"loss": "orpo", "beta": 0.1, "model": {"path": "org/name"}},
        metrics={"loss": 1.23456789, "stopped": "early"},
        manifest=manifest,
        eval_manifest=manifest,
        decoder=decoder_config(),
        step=1234,
    )


@pytest.mark.parametrize(
    ("model", "start"),
    [
        (ModelConfig(path="org/name"), "from [org/name](https://huggingface.co/org/name) for 1,234 steps"),
        (ModelConfig(path="org/name", revision="v1"), "at revision `v1` for"),
        (ModelConfig(path="."), "from the weights of a local folder for"),
        (ModelConfig(config="config.json"), "from random weights for"),
    ],
)
def test_it_says_what_the_run_started_from(card, model, start):
    text = card(model=model, lora=None)
    assert start in text
    assert ModelCard(text).data.base_model == ("org/name" if model.path == "org/name" else None)
    assert "| loss | 1.23457 |" in text and "| stopped | early |" in text


def test_a_card_of_adapters_says_so_and_how_they_are_loaded(card):
    lora, model = LoraConfig(rank=3), ModelConfig(path="org/name")
    alone, merged = card(model=model, lora=lora, adapter=True), card(model=model, lora=lora)
    assert "as LoRA adapters of rank 3 that lie here," in alone and "AutoPeftModelForCausalLM" in alone
    assert "as LoRA adapters of rank 3 merged here," in merged and "AutoModelForCausalLM" in merged
    assert (ModelCard(alone).data.library_name, ModelCard(merged).data.library_name) == ("peft", "transformers")


def test_settings_lose_their_paths_but_keep_the_hub_id():
    settings = {"data": "/a/b", "run_dir": "c/d", "model": {"path": "org/name"}, "chat": ["/x/y.jinja", 3], "beta": 0.1}
    kept = portable_settings(settings, "org/name")
    assert kept == {"model": {"path": "org/name"}, "chat": ["y.jinja", 3], "beta": 0.1}
    assert portable_settings(settings, None)["model"] == {"path": "name"}
