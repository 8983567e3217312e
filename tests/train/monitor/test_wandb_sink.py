"""Weights & Biases that cannot be used: a refusal, and nothing begun. What it is sent: test_watched_runs.py."""

import sys
import threading
import types

import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.monitor import wandb_sink
from oddsmill.train.monitor.metrics import MetricsWriter
from oddsmill.train.monitor.wandb_sink import WandbSink, import_wandb


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


def test_its_page_gets_no_secret(monkeypatch, tmp_path):
    sent = {}
    wandb_that(monkeypatch)
    init = sys.modules["wandb"].init
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **settings: sent.update(settings) or init(**settings))
    WandbSink(tmp_path, tmp_path / "wandb.json", {"data": "https://me:hunter2@host/data", "hf_token": "hunter2"})
    assert sent["config"] == {"data": "https://me:***@host/data", "hf_token": "***"}


def wandb_that(monkeypatch, **calls):
    """A W&B whose run does what is asked of it in its own way."""
    wandb = types.ModuleType("wandb")
    run = {"id": "abc", "log": lambda values: None, "finish": lambda: None, "define_metric": lambda *_, **__: None}
    wandb.init = lambda **settings: types.SimpleNamespace(**run | calls)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(wandb_sink, "PATIENCE_S", 0.05)


def waits(*_):
    threading.Event().wait(10)


def is_gone(*_):
    raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(("log", "problem"), [(waits, "no answer in 0 s"), (is_gone, r"\[Errno 32\] Broken pipe")])
def test_a_service_that_is_gone_or_hangs_ends_the_run_with_one_message(tmp_path, monkeypatch, capsys, log, problem):
    wandb_that(monkeypatch, log=log, finish=log)
    show_messages()
    sink = WandbSink(tmp_path, tmp_path / "wandb.json", {})
    with pytest.raises(RunFailed, match=rf"W&B takes no more metrics \({problem}\).*the same command goes on"):
        sink.write(1, {"loss": 1.0})
    sink.close()
    assert capsys.readouterr().out == ""  # it was told


def test_an_end_without_network_is_bounded_and_says_how_the_rest_gets_there(tmp_path, monkeypatch, capsys):
    wandb_that(monkeypatch, finish=waits)
    show_messages()
    sink = WandbSink(tmp_path, tmp_path / "wandb.json", {})
    sink.write(1, {"loss": 1.0})
    sink.close()
    assert f"they lie in {tmp_path / 'wandb'}, and `wandb sync` sends them" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"id": 5}'])
def test_a_damaged_id_begins_a_new_run_of_theirs_and_says_so(tmp_path, monkeypatch, capsys, content):
    wandb_that(monkeypatch)
    show_messages()
    (tmp_path / "wandb.json").write_bytes(content)
    WandbSink(tmp_path, tmp_path / "wandb.json", {})
    assert "wandb.json is damaged: W&B gets a new run" in capsys.readouterr().out
    assert (tmp_path / "wandb.json").read_text() == '{"id": "abc"}\n'
