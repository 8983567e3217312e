"""Families are records: their parts reach the decoder, and nothing outside the table asks for a family by name."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from oddsmill.schemas.errors import Refused
from oddsmill.train.model.families import FAMILIES, Family
from oddsmill.train.model.hf_config import parse_config
from tests.train.decoders import TINY, decoder_config, split_decoder

TRAIN = Path(__file__).parents[3] / "train"


def test_a_record_is_all_that_a_further_family_needs(monkeypatch):
    """One of known parts in a new combination is read, has its weights, and answers."""
    further = Family(
        defaults={"sliding_window": 3, "final_logit_softcapping": 2.0},
        query_key_value_bias="always",
        query_key_norm=True,
        post_norms=True,
        softcaps=("final_logit_softcapping",),
        sliding_layers=lambda config: [False, True],
    )
    monkeypatch.setitem(FAMILIES, "further", further)
    config = decoder_config(model_type="further")
    assert config.windows == (None, 3)
    definition, params = split_decoder(config)
    weights = {".".join(path) for path in flatten_dict(params)}
    assert {"layers.self_attn.q_proj.bias", "layers.self_attn.q_norm.weight"} < weights
    assert {"layers.pre_feedforward_layernorm.weight"} < weights
    assert "layers.self_attn.o_proj.bias" not in weights

    @jax.jit
    def logits(params):
        ids = np.arange(8)[None]
        decoder = nnx.merge(definition, params)
        return decoder.logits(decoder(ids, ids, np.full_like(ids, 8)))

    assert 0.5 < np.abs(logits(params)).max() < 2


def test_a_family_is_named_in_the_table_alone():
    """Code that asks for a family by name would have to change with every further one; comments may name models."""
    names = "|".join(FAMILIES)
    asked = {
        (path.relative_to(TRAIN).as_posix(), line.strip())
        for path in TRAIN.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(rf"""["']({names})["']""", line)
    }
    assert {path for path, _ in asked} == {"model/families.py"}


@pytest.mark.parametrize(("bias", "configured"), [("never", False), ("configured", True), ("always", True)])
def test_a_bias_is_there_always_or_never_or_as_the_field_says(bias, configured, monkeypatch):
    monkeypatch.setitem(FAMILIES, "biased", Family(query_key_value_bias=bias, output_bias=bias, mlp_bias=bias))

    def biases(**fields):
        config = decoder_config(model_type="biased", **fields)
        return {config.query_key_value_bias, config.output_bias, config.mlp_bias}

    assert biases(attention_bias=True, mlp_bias=True) == {configured}
    assert biases(attention_bias=False, mlp_bias=False) == {bias == "always"}
    assert biases() == {bias == "always"}


def test_models_of_other_families_are_refused_with_those_that_can_be_trained():
    with pytest.raises(Refused, match="model_type 'gpt2' is not supported") as refusal:
        parse_config({**TINY, "model_type": "gpt2"}, path="config.json")
    assert all(name in str(refusal.value) for name in FAMILIES)
