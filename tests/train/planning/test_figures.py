"""The figures of a compiled step are those that its shapes give by hand."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest

from oddsmill.train.attention.splash import SPLASH
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.planning.figures import Figures, attention_formula
from oddsmill.train.planning.plan import make_plan
from oddsmill.train.planning.rows import StepRows
from tests.train.assembled import assembled
from tests.train.planning.test_plan import MODEL


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(MODEL))
    return str(path)


@cache
def figures_of(path: str, **changes) -> Figures:
    """Of a plan for the one device that is here; with dense attention, which compiles sooner."""
    settings = {"model": ModelConfig(config=path), "row_length": 256, "attn_mechanism": "vanilla", **changes}
    return make_plan(PlanConfig(topology="cpu:1", **settings)).trials[-1].figures


def test_the_executed_products_are_the_models_and_what_is_computed_again(model):
    """By count: three times the forward pass; with recomputation once more for each layer, but for its last product,
    whose result nothing needs. Dense attention has all keys; attention block by block is not in the count.
    """
    tokens, layer_products = 8 * 256, 2 * (4 * 64 * 64 + 3 * 64 * 128)
    products, scores = 6.0 * tokens * (layer_products + 512 * 64), 4.0 * 2 * 64 * 8 * 256**2
    plain, recomputed = (figures_of(model, gradient_checkpointing=policy) for policy in (False, True))
    assert plain.formula_flops == recomputed.formula_flops == 0
    assert plain.flops == pytest.approx(products + 3 * scores, rel=1e-3)
    again = 2.0 * tokens * (layer_products - 2 * 64 * 128) + scores
    assert recomputed.flops == pytest.approx(plain.flops + again, rel=1e-3)
    blockwise = figures_of(model, gradient_checkpointing=False, attn_mechanism="xla")
    assert blockwise.flops - blockwise.formula_flops == pytest.approx(products, rel=1e-3)
    assert blockwise.formula_flops > 0


def test_what_is_frozen_is_held_and_has_no_optimizer_state(tmp_path, model):
    """With LoRA the weights are kept as config.json says they are stored; no weight is read, none is there."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**MODEL, "torch_dtype": "bfloat16"}))
    of_path = {"model": ModelConfig(path=str(folder)), "lora": LoraConfig(rank=2)}
    memory = figures_of("", gradient_checkpointing=True, **of_path).memory
    whole = figures_of(model, gradient_checkpointing=True).memory
    assert memory.frozen == whole.params / 2
    assert memory.optimizer < 3 * memory.params < whole.params / 4


def test_a_mechanism_that_computes_hidden_keys_too_counts_them():
    """Splash computes all keys before each token, twice; the others those that a token sees."""
    position, branch = np.array([[0, 1, 2, 0, 1, 0]]), np.array([[1, 1, 2, 1, 2, 0]])
    rows = StepRows(position, branch, pairs=1, max_pairs=1, max_token_id=None, epoch=None)
    step = assembled()
    config = step.decoder_config
    a_key = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    assert attention_formula(step, rows) == a_key * (1 + 2 + 3 + 1 + 2)
    splash = dataclasses.replace(step, attn_mechanism=SPLASH)
    assert attention_formula(splash, rows) == 2 * a_key * (1 + 2 + 3 + 4 + 5 + 6)
