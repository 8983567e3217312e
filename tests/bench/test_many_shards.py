"""The figures of very many shards come from a sound dataset, made and measured in one go."""

import json
import sys
from pathlib import Path

import pytest

from bench import many_shards
from oddsmill.schemas.manifest import read_manifest

TOKENIZER = "recipes/tiny/tokenizer"


@pytest.mark.slow
def test_more_shards_than_files_that_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """`verify`, two starts and the loader end well; what they take at scale, the bench says."""
    monkeypatch.setattr(many_shards, "LOADER_S", 0.5)
    arguments = ["--shards=300", "--pairs=900", "--open_files=128", f"--tokenizer={TOKENIZER}", f"--folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["many_shards", *arguments])
    assert many_shards.main() == 0
    assert read_manifest(tmp_path / "data").splits["train"].pairs == 297 * 3
    assert len(json.loads((tmp_path / "run" / "verified_shards.json").read_text())) == 300
    verify, first, second = capsys.readouterr().out.splitlines()[-3:]
    assert verify.startswith("| verify |")
    assert " | 300 | " in first and " | 0 | " in second
