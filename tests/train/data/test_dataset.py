"""A preprocessed dataset as the trainer opens it."""

import numpy as np
import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.data.dataset import Dataset, open_train_data
from tests.datasets import packed, random_pairs, write_dataset


def test_rows_are_counted_by_split_and_a_split_that_is_not_there_has_none(tmp_path):
    rows = packed(random_pairs(np.random.default_rng(0), 20, vocab_size=40), 24)
    write_dataset(tmp_path / "data", {"train": rows}, row_length=24, vocab_size=40)
    dataset = open_train_data(str(tmp_path / "data"))
    assert (dataset.num_rows("train"), dataset.num_rows("eval")) == (len(rows), 0)
    write_dataset(tmp_path / "held_out", {"eval": rows}, row_length=24, vocab_size=40)
    with pytest.raises(Refused, match=r"held_out: the train split has no rows"):
        open_train_data(str(tmp_path / "held_out"))
    assert Dataset(str(tmp_path / "data"), dataset.manifest) == dataset
