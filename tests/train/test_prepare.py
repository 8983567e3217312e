"""A run before its first step: what is checked, what makes it this run, what is said of it."""

import dataclasses
import json

import numpy as np
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.prepare import describe_run, prepare
from tests.datasets import edit_manifest, packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE

ROWS = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)
SIZES = {"row_length": 32, "vocab_size": VOCAB_SIZE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_dataset(folder / "data", {"train": ROWS[4:], "eval": ROWS[:4]}, **SIZES)
    write_dataset(folder / "train_only", {"train": ROWS[4:]}, **SIZES)
    write_dataset(folder / "eval_only", {"eval": ROWS[:2]}, **SIZES)
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


@pytest.fixture
def config(folder, tmp_path):
    model = ModelConfig(config=str(folder / "config.json"))
    return TrainConfig(data=str(folder / "data"), run_dir=str(tmp_path / "run"), model=model, total_batch_size=4)


def changed(config, **settings):
    return prepare(dataclasses.replace(config, **settings))


def test_nothing_is_written_and_the_steps_are_those_of_the_epochs(config, tmp_path):
    run = changed(config, num_train_epochs=2.0)
    assert not (tmp_path / "run").exists()
    rows = len(ROWS) - 4
    assert run.rows_per_epoch == rows and run.program.num_steps == -(-2 * rows // 4)
    assert changed(config, max_steps=3).program.num_steps == 3
    # With compat=trl each epoch is filled up with empty rows.
    padded = changed(config, compat="trl", num_train_epochs=2.0)
    assert padded.rows_per_epoch == -(-rows // 4) * 4 and padded.program.num_steps == 2 * -(-rows // 4)


def test_the_identity_is_what_may_not_change_as_a_checkpoint_gives_it_back(config, folder):
    identity = changed(config, max_steps=8).identity
    assert json.loads(json.dumps(identity)) == identity
    for settings in ({"save_steps": 2}, {"eval_data": str(folder / "eval_only")}, {"verify_shards": True}):
        assert changed(config, max_steps=8, **settings).identity == identity, settings
    for settings in ({"beta": 0.5}, {"max_steps": 9}, {"data": str(folder / "train_only")}):
        assert changed(config, **{"max_steps": 8} | settings).identity != identity, settings


def test_what_would_have_no_effect_or_fits_nothing_is_refused(config, folder):
    without = {"data": str(folder / "train_only")}
    for settings, message in (
        ({"data": str(folder / "eval_only")}, "the train split has no rows"),
        ({"eval_data": str(folder / "train_only")}, "the eval split has no rows; preprocess with --eval_share=1"),
        ({**without, "eval_steps": 2}, "--eval_steps=2: .* has no eval split"),
        ({**without, "eval_batch_size": 2}, "--eval_batch_size=2: .* has no eval split"),
        ({"max_steps": 3, "profile_steps": [2, 4]}, "--profile_steps=.* the run has 3 steps"),
        ({"warmup_steps": 10_000}, "--warmup_steps=10000: the warmup is 10000 of .* steps, all of the run"),
        ({"load_best_model_at_end": True, "eval_steps": 1, "metric_for_best_model": "luck"}, "luck: there are loss"),
    ):
        with pytest.raises(Refused, match=message):
            changed(config, **settings)


def test_the_eval_split_is_that_of_the_data_or_of_the_folder_that_is_given(config, folder):
    run = changed(config)
    assert run.eval_data is run.data and run.evaluation() is not None
    run = changed(config, eval_data=str(folder / "eval_only"))
    assert run.eval_data.num_rows("eval") == 2 and run.best().data == run.eval_data.manifest.sha256
    assert changed(config, data=str(folder / "train_only")).evaluation() is None


def test_an_eval_split_with_ids_that_the_model_lacks_is_refused(config, folder, tmp_path):
    data, eval_data, model = tmp_path / "data", tmp_path / "eval", tmp_path / "config.json"
    write_dataset(data, {"train": ROWS}, **SIZES)
    write_dataset(eval_data, {"eval": ROWS[:2]}, **SIZES)
    for path, max_token_id in ((data, VOCAB_SIZE - 2), (eval_data, VOCAB_SIZE - 1)):
        split = "train" if path == data else "eval"
        edit_manifest(
            path, lambda fields, name=split, highest=max_token_id: fields["splits"][name].update(max_token_id=highest)
        )
    model.write_text(json.dumps({**TINY, "vocab_size": VOCAB_SIZE - 1}))
    settings = {"data": str(data), "model": ModelConfig(config=str(model))}
    assert not changed(config, **settings).data.num_rows("eval")
    with pytest.raises(Refused, match=f"eval holds the token id {VOCAB_SIZE - 1}, and the model has ids below"):
        changed(config, **settings, eval_data=str(eval_data))


def test_the_console_says_what_will_be_done(config):
    said = describe_run(changed(config, max_steps=8, warmup_steps=2)).splitlines()
    assert (
        said[0].startswith(f"model {config.model.config}: {TINY['model_type']}, ") and "from random weights" in said[0]
    )
    assert said[1].endswith(f"in {len(ROWS) - 4:,} rows of 32")
    assert said[2].startswith("8 steps of 4 rows on 1 device(s), adamw, learning rate 0.001, linear to 0 after 2 steps")
    frozen = describe_run(changed(config, max_steps=8, frozen_parameters=["embed_tokens"])).splitlines()
    assert frozen[1].startswith("frozen embed_tokens: ") and len(frozen) == 4


@pytest.mark.parametrize(("made_for", "is_noted"), [(15, True), (16, False), (None, False)])
def test_rows_beyond_the_models_positions_are_noted(config, tmp_path, made_for, is_noted):
    """The prompts and answers of the fixture have up to 6 tokens, so at most 8 each by the power of two."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY | ({"max_position_embeddings": made_for} if made_for else {})))
    said = describe_run(changed(config, max_steps=8, model=ModelConfig(config=str(path))))
    expected = "note: prompt and answer may reach 16 tokens, and the model is made for 15 (max_position_embeddings"
    assert (expected in said) == is_noted and ("note:" in said) == is_noted
