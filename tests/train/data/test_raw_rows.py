"""Rows of text on their way to the pipeline, and how its end becomes ours."""

import sys

import pytest

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.data import raw_rows
from oddsmill.train.data.raw_rows import preprocess_rows, write_rows


def test_rows_that_cannot_be_written_are_refused(tmp_path):
    def refused(rows, match):
        with pytest.raises(Refused, match=match):
            write_rows(rows, tmp_path / "rows.jsonl", name="train_dataset")

    refused({"train": [], "test": []}, r"train_dataset holds several splits \(train, test\); give one")
    refused(3, "train_dataset is a int")
    refused([], "train_dataset has no rows")
    refused([{}, "text"], "train_dataset, row 1 is a str; a dict is needed")
    refused([{"prompt": b"bytes"}], "row 0: cannot be written as JSON")


def test_without_the_pipeline_rows_of_text_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install 'oddsmill\[pipeline\]'"):
        preprocess_rows([{}], tmp_path / "data", name="train_dataset", settings={})


def test_where_rows_are_and_go_is_not_said_twice(tmp_path):
    for settings, key in (({"source": {"path": "rows.jsonl"}}, "source.path"), ({"output": "out"}, "output")):
        with pytest.raises(Refused, match=f"preprocessing: {key} has no effect here: the rows are train_dataset"):
            preprocess_rows([{}], tmp_path / "data", name="train_dataset", settings=settings)
    with pytest.raises(Refused, match=r"preprocessing: source='rows\.jsonl' is no group of settings"):
        preprocess_rows([{}], tmp_path / "data", name="train_dataset", settings={"source": "rows.jsonl"})
    with pytest.raises(Refused, match="source is a list, and train_dataset is one source"):
        preprocess_rows([{}], tmp_path / "data", name="train_dataset", settings={"source": [{"format": "triple"}]})


def test_how_the_pipeline_ends_is_how_this_ends(tmp_path, monkeypatch):
    command = [sys.executable, "-c", "import sys; print('note\\n{}: because', file=sys.stderr); sys.exit({})"]

    def ends(word, code):
        raw_rows._run([*command[:2], command[2].format(word, code)], name="train_dataset")

    with pytest.raises(Refused, match="train_dataset: because"):
        ends("refused", 2)
    with pytest.raises(RunFailed, match="train_dataset could not be preprocessed: because"):
        ends("failed", 1)
    ends("note", 0)
