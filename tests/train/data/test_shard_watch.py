"""Shards that change under a run."""

import os

import jax
import numpy as np
import pytest

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.shard_watch import ShardWatch
from oddsmill.train.data.verified_shards import verify_shards
from tests.datasets import packed, random_pairs, write_dataset


@pytest.fixture
def dataset(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 20, vocab_size=40), 24)
    manifest = write_dataset(tmp_path / "data", {"train": rows}, row_length=24, vocab_size=40, shards=2)
    return Dataset(str(tmp_path / "data"), manifest)


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_a_shard_that_changes_is_named(dataset, harm):
    watch = ShardWatch(dataset)
    watch.check()
    path = os.path.join(dataset.folder, "train-00001-of-00002.arrayrecord")
    if harm == "missing":
        os.unlink(path)
    else:  # the same size, other bytes
        with open(path, "r+b") as file:
            file.write(b"x")
    with pytest.raises(RunFailed, match=rf"train-00001-of-00002.arrayrecord (was|is) {harm} since the run began"):
        watch.check()
    with pytest.raises(RunFailed, match=harm), watch.explain_errors():
        raise RuntimeError("array record says nothing useful")


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_a_shard_that_changes_between_its_verification_and_the_first_step_is_named(dataset, harm):
    verified = verify_shards([dataset], {})
    ShardWatch(dataset, verified=verified).check()
    path = os.path.join(dataset.folder, "train-00001-of-00002.arrayrecord")
    if harm == "missing":
        os.unlink(path)
    else:
        with open(path, "r+b") as file:
            file.write(b"x")
    with pytest.raises(RunFailed, match=rf"train-00001-of-00002.arrayrecord (was|is) {harm} since the run began"):
        ShardWatch(dataset, verified=verified).check()


def test_an_error_while_nothing_changed_keeps_its_text_and_refusals_stay_refusals(dataset):
    watch = ShardWatch(dataset)
    with pytest.raises(RunFailed, match=r"cannot be read \(input/output error\)"), watch.explain_errors():
        raise OSError("input/output error")
    with (
        pytest.raises(jax.errors.JaxRuntimeError),
        watch.explain_errors(),
    ):  # an evaluation that does not fit the devices
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(Refused), watch.explain_errors():
        raise Refused("x")
