"""A server loads fastokens while it imports the rest, and whatever fails there shows when it is asked for."""

import io
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from oddsmill.pipeline.workers import loading, worker
from oddsmill.schemas.engines import fast


@pytest.mark.parametrize(("name", "loads"), [("tokenizer.json", 1), ("missing.json", 0), (None, 0)])
def test_the_tokenizer_of_the_first_message_is_loaded(
    name: str | None, loads: int, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    message = pickle.dumps(None if name is None else tokenizer_folder / name)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(message)))
    monkeypatch.setattr(worker, "main", lambda early: early is None or early.join())
    fast._load.cache_clear()
    loading.main()
    assert fast._load.cache_info().currsize == loads
