"""Weights & Biases that cannot be used: a refusal, and nothing begun. What it is sent: test_watched_runs.py."""

import sys
import types

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.monitor.metrics import MetricsWriter
from oddsmill.train.monitor.wandb_sink import import_wandb


class Error(Exception):
    """As wandb.errors.Error, which theirs derive from."""


class UsageError(Error):
    pass


def test_a_refusal_of_theirs_is_one_message_before_any_file_is_opened(tmp_path, monkeypatch):
    def init(**settings):
        raise UsageError("api_key not configured (no-tty).\ncall wandb.login(key=[your_api_key])")

    wandb = types.ModuleType("wandb")
    wandb.init, wandb.errors = init, types.SimpleNamespace(Error=Error)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    files = RunFiles(tmp_path)
    with pytest.raises(Refused, match=r"\(no-tty\)\. call wandb\.login.*WANDB_MODE=offline") as refusal:
        MetricsWriter(files, report_to=["wandb"], settings={}, first_step=0, num_steps=2, headline=())
    assert "\n" not in str(refusal.value)
    assert not files.metrics.exists()


def test_wandb_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Refused, match=r"pip install 'oddsmill\[wandb\]'"):
        import_wandb()
