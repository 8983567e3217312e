"""The sides of bench/step.py are fed the same pairs and compute the same."""

from functools import partial
from itertools import islice

import jax
import numpy as np
import pytest

from bench.model_shapes import TOY
from bench.step import CLASSIC, OURS, one_row_batches, two_row_batches, two_row_step
from bench.training_data import preprocess_texts, write_model_config
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.prepare import prepare
from oddsmill.train.step.step import train_step

TOKENIZER = "recipes/tiny/tokenizer"
ROWS = [
    {"prompt": f"Add {n} and {m}.", "chosen": " " + f"{n + m} " * (n + 1), "rejected": " none" * (m + 1)}
    for n in range(4)
    for m in range(3)
]
MAX_LENGTH = 64


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "one pair a row"])
def data(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    manifest = preprocess_texts(
        ROWS, folder / "data", tokenizer=TOKENIZER, max_length=MAX_LENGTH, texts=folder / "rows.jsonl",
        packing=request.param,
    )  # fmt: skip
    write_model_config(folder, TOY, manifest.tokenizer.vocab_size)
    return folder


def prepared(folder, variant):
    settings = {"gradient_checkpointing": False, **variant.settings}
    model = ModelConfig(config=str(folder / "config.json"))
    return prepare(TrainConfig(data=str(folder / "data"), run_dir="-", model=model, max_steps=9, **settings))


def fresh_state(run):
    state = run.program.initial_state(run.initial_weights()[0])
    del state["skipped"]
    return state


def test_ours_has_the_loss_of_the_classic_form(data):
    folder = str(data / "data")
    run = prepared(data, CLASSIC)
    batch = next(two_row_batches(run, folder, len(ROWS), MAX_LENGTH))
    # Of the step only what the loss needs is compiled: gradients are compared in tests/train/loss/test_equivalence.py.
    expected = jax.jit(lambda state, batch: two_row_step(state, batch, run=run)[1])(fresh_state(run), batch)
    run = prepared(data, OURS)
    batch = next(one_row_batches(run, folder, run.data.manifest.splits["train"].rows))
    step = partial(train_step, objective=run.program.objective, optimizer=run.program.optimizer, micro_batches=1)
    with jax.set_mesh(run.program.mesh):
        loss = jax.jit(lambda state, batch: step(state, batch)[1]["loss"])(fresh_state(run), batch)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_the_classic_form_goes_through_the_pairs_in_turn(data):
    run = prepared(data, CLASSIC)
    batches = list(islice(two_row_batches(run, str(data / "data"), 4, MAX_LENGTH), 6))
    first, second = (np.concatenate([batch["ids"][:4] for batch in part]) for part in (batches[:3], batches[3:]))
    assert (first == second).all()
    assert len({row.tobytes() for row in first}) == len(ROWS)
