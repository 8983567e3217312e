"""The settings of a run as a whole."""

import dataclasses

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.settings import facts_of, settings_as_yaml
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.train_config import (
    FINE_TUNING_LEARNING_RATE,
    FROM_SCRATCH_LEARNING_RATE,
    LORA_LEARNING_RATE,
    TrainConfig,
)


def test_the_default_learning_rate_suits_the_start(make):
    assert make(model=ModelConfig(config="c")).peak_learning_rate == FROM_SCRATCH_LEARNING_RATE
    assert make().peak_learning_rate == FINE_TUNING_LEARNING_RATE
    assert make(lora=LoraConfig()).peak_learning_rate == LORA_LEARNING_RATE
    assert make(learning_rate=3e-4).peak_learning_rate == 3e-4


def test_a_run_folder_s_settings_make_the_same_run(make, tmp_path):
    made = make(lora=LoraConfig(rank=3), eval_steps=5, max_steps=9)
    (tmp_path / "settings.yaml").write_text(settings_as_yaml(made))
    assert load_settings(TrainConfig, [f"--config={tmp_path / 'settings.yaml'}"], command="x") == made


def test_what_the_weights_depend_on_may_not_change_under_a_run():
    fixed = {
        field.name for field in dataclasses.fields(TrainConfig) if not facts_of(TrainConfig, field.name).may_change
    }
    assert {"beta", "learning_rate", "optim", "seed", "total_batch_size", "compat", "lora", "param_dtype"} <= fixed
    assert not {"data", "mesh", "logging_steps", "save_steps", "attn_mechanism", "generation_seed"} & fixed


def test_settings_stand_in_the_order_of_their_groups():
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    assert names[:4] == ["data", "run_dir", "model", "lora"] and names[-1] == "generation_seed"
    assert names.index("beta") < names.index("learning_rate") < names.index("optim") < names.index("eval_steps")
