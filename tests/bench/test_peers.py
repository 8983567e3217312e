"""All sides of the comparison are fed the same pairs, in the same order, and measured alike."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.model_shapes import TOY
from bench.peers import our_side
from bench.peers.__main__ import loss_difference
from bench.peers.job import Meter
from bench.peers.prepare import prepare_data, whole_rows
from bench.peers.random_weights import main as write_weights
from bench.preference_texts import read_jsonl, ultrafeedback_like_rows
from oddsmill.schemas.record import Pair
from oddsmill.train.prepare import prepare
from tests.bench.test_step import ROWS
from tests.train.decoders import two_row_batch, two_row_loss

TOKENIZER = Path("recipes/tiny/tokenizer")
MAX_LENGTH = 64


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers") / "job"
    job = prepare_data(
        folder, ROWS, tokenizer=TOKENIZER, max_length=MAX_LENGTH, shape=TOY, pairs_per_step=4, warmup_steps=1
    )
    write_weights(folder, dtype="float32")
    return job


def test_tokens_stand_in_the_order_of_the_texts(job):
    decode = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json")).decode
    texts = read_jsonl(job.path / "rows.jsonl")
    assert texts == ROWS
    for row, ids in zip(texts, job.pairs(), strict=True):
        assert decode(ids["prompt"] + ids["chosen"]) == row["prompt"] + row["chosen"]
        assert decode(ids["prompt"] + ids["rejected"]) == row["prompt"] + row["rejected"]


def test_the_losses_of_ours_are_those_of_two_padded_rows(job):
    run = prepare(our_side.settings(job))
    params, _ = run.initial_weights()
    pairs = [Pair(**ids, id=1) for ids in job.pairs()]
    batches = [two_row_batch(pairs[start : start + 4], MAX_LENGTH) for start in range(0, len(pairs), 4)]
    expected = [
        float(two_row_loss(run.program.objective.definition, params, batch, beta=job.beta, nll_scope="full")[0])
        for batch in batches
    ]
    assert our_side.losses(job) == pytest.approx(expected, abs=1e-5)


def test_the_lengths_are_the_least_that_lose_nothing(job):
    pairs = job.pairs()
    assert job.max_prompt_length == max(len(pair["prompt"]) for pair in pairs)
    assert job.max_completion_length == max(len(pair[side]) for pair in pairs for side in ("chosen", "rejected"))
    assert job.steps * job.pairs_per_step == len(pairs)


def test_a_text_that_some_side_would_cut_is_left_out():
    long = {"prompt": "Count.", "chosen": " 1" * 100, "rejected": " 2"}
    assert whole_rows([long, *ROWS], TOKENIZER, max_length=MAX_LENGTH, count=99) != [long, *ROWS]
    assert long not in whole_rows([long, *ROWS], TOKENIZER, max_length=MAX_LENGTH, count=99)


def test_a_meter_leaves_the_warm_up_out(monkeypatch):
    clock = iter([10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter, reported = Meter(warmup_steps=2, steps=3), {}
    for loss in range(meter.num_steps):
        meter.step_ended(loss)
    monkeypatch.setattr("bench.peers.job.report", reported.update)
    meter.report(pairs=12, packages=("numpy",))
    assert (reported["wall_s"], reported["losses"]) == (3.0, [0.0, 1.0, 2.0, 3.0, 4.0])


def test_a_side_that_takes_other_batches_is_seen():
    expected = [1.0, 2.0, 3.0]
    assert loss_difference([{"losses": [1.0, 2.0, 3.0, 1.0]}], expected) == 0
    assert loss_difference([{"losses": [1.0, 3.0, 2.0, 1.0]}], expected) == 1


def test_texts_like_ultrafeedback_are_the_same_every_time_and_have_its_lengths(monkeypatch):
    source = [{"chosen": " ".join(map(str, range(3000))), "rejected": ""}]
    monkeypatch.setattr("bench.preference_texts.rows_of_long_answers", lambda: source)
    rows = ultrafeedback_like_rows(400, max_tokens=2048)
    assert rows == ultrafeedback_like_rows(400, max_tokens=2048)
    words = sorted(len(row["chosen"].split()) for row in rows)
    assert 200 < words[200] < 270
