"""What machines do to a run becomes one message."""

import errno

import jax
import pytest

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.__main__ import main
from oddsmill.train.parallel.device_errors import explain_device_errors


def test_a_full_disk_is_told_with_its_file():
    with pytest.raises(RunFailed, match=r"runs/a/metrics\.jsonl: No space left on device\. Make room"):  # noqa: SIM117
        with explain_device_errors("runs/a"):
            raise OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl")


def test_full_device_memory_is_told_with_the_settings_that_help():
    with pytest.raises(RunFailed, match="--gradient_checkpointing=true"), explain_device_errors("runs/a"):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")


@pytest.mark.parametrize(
    ("verb", "arguments", "what_runs"),
    [
        ("eval", ["--run_dir=r"], "oddsmill.train.commands.evaluate.run_evaluate"),
        ("generate", ["--model.path=m", "--prompt=p"], "oddsmill.train.commands.generate.run_generate"),
        ("export", ["--run_dir=r", "--out=o"], "oddsmill.train.run_folder.export_checkpoint"),
    ],
)
def test_every_command_tells_of_devices_that_are_too_small(monkeypatch, capsys, verb, arguments, what_runs):
    def run(config):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

    monkeypatch.setattr(what_runs, run)
    assert main([verb, *arguments]) == 1
    assert "the devices have no memory left" in capsys.readouterr().err


def test_a_lost_process_is_told_and_other_errors_stay_defects(monkeypatch):
    with pytest.raises(jax.errors.JaxRuntimeError), explain_device_errors("runs/a"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something")
    with pytest.raises(FileNotFoundError), explain_device_errors("runs/a"):
        raise FileNotFoundError(errno.ENOENT, "x")
    monkeypatch.setattr("oddsmill.train.parallel.device_errors.is_joined", lambda: True)
    with (
        pytest.raises(RunFailed, match=r"another process is gone or failed .* goes on from the newest checkpoint"),
        explain_device_errors("runs/a"),
    ):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo all-reduce failed")
