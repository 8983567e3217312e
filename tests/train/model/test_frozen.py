"""Weights frozen by pattern: chosen by name, not moved, without optimizer state."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from oddsmill.schemas.errors import Refused
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import train
from oddsmill.train.model.frozen import frozen_paths, join_params, split_params
from oddsmill.train.prepare import prepare
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE, decoder_config, split_decoder

ROW_LENGTH = 32
PATTERNS = ["embed_tokens", r"layers\.\d+\.self_attn\.[qk]_proj"]
FROZEN = {
    ("embed_tokens", "weight"),
    ("layers", "self_attn", "q_proj", "weight"),
    ("layers", "self_attn", "k_proj", "weight"),
}


@pytest.fixture(scope="module")
def weights():
    return split_decoder(decoder_config())[1]


def test_patterns_choose_by_hugging_face_names(weights):
    assert frozen_paths(PATTERNS, weights, num_layers=2) == FROZEN
    trained, frozen = split_params(weights, FROZEN)
    assert set(flatten_dict(frozen)) == FROZEN and not set(flatten_dict(trained)) & FROZEN
    assert jax.tree.structure(join_params(trained, frozen)) == jax.tree.structure(weights)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["embed_tokens", "gate_up"], "'gate_up' matches nothing; known are model.embed_tokens.weight, "),
        ([r"layers\.0\."], "matches model.layers.0.input_layernorm.weight but not model.layers.*.input_layernorm"),
        (["weight"], "freezes every weight"),
    ],
)
def test_patterns_that_cannot_be_are_refused(weights, patterns, message):
    with pytest.raises(Refused, match="frozen_parameters") as refusal:
        frozen_paths(patterns, weights, num_layers=2)
    assert message in str(refusal.value)


def test_the_digest_is_of_every_bit_and_its_place(weights):
    before = digest(weights)
    assert digest(jax.tree.map(lambda leaf: leaf + 0, weights)) == before
    flipped = weights["norm"]["weight"].at[3].set(np.nextafter(np.float32(1), np.float32(2)))
    assert digest({**weights, "norm": {"weight": flipped}}) != before
    turned = weights["lm_head"]["weight"][::-1]
    assert digest({**weights, "lm_head": {"weight": turned}}) != before
    assert digest({}) is None


def test_frozen_weights_do_not_move_and_have_no_optimizer_state(weights, tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    write_dataset(tmp_path / "data", {"train": rows}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(TINY))
    save_params(weights, tmp_path / "model", num_layers=2)
    config = TrainConfig(
        data=str(tmp_path / "data"),
        run_dir=str(tmp_path / "run"),
        model=ModelConfig(path=str(tmp_path / "model")),
        frozen_parameters=PATTERNS,
        max_steps=4,
        learning_rate=1e-2,
        weight_decay=0.1,
    )
    state = prepare(config).program.abstract_state
    trained = sum(leaf.size for path, leaf in flatten_dict(weights).items() if path not in FROZEN)
    assert sum(leaf.size for leaf in jax.tree.leaves(state["params"])) == trained
    assert sum(leaf.size for leaf in jax.tree.leaves(state["opt_state"]) if leaf.ndim) == 2 * trained
    train(config)
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "run" / "export" / "model.safetensors")
    assert after.keys() == before.keys()
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {name for name in before if "embed_tokens" in name or "q_proj" in name or "k_proj" in name}
