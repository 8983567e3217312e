"""A checkpoint that is older than a setting means that setting's default."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.data.data_order import DataOrder


def test_a_setting_that_a_checkpoint_does_not_name_had_its_default(tmp_path):
    def checkpoints(**identity):
        return Checkpoints(tmp_path, identity={"beta": 0.1, **identity}, save_total_limit=2)

    with checkpoints() as old:
        old.save(
            1,
            {"params": jnp.zeros(2)},
            SimpleNamespace(get_state=dict),
            DataOrder(),
            frozen_digest=None,
            notes={},
            best_step=None,
        )
    checkpoints(optim="adamw", compat=None, warmup_ratio=0.0).check_identity()
    older_than_the_choice = {"loss": "orpo", "simpo_gamma": 0.5, "cpo_alpha": 1.0, "label_smoothing": 0.0}
    checkpoints(**older_than_the_choice).check_identity()
    with pytest.raises(Refused, match="loss: orpo -> simpo"):
        checkpoints(**older_than_the_choice | {"loss": "simpo"}).check_identity()
    with pytest.raises(Refused, match="optim: adamw -> lion"):
        checkpoints(optim="lion", compat=None).check_identity()
