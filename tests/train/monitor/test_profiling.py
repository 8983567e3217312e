"""A profiler trace of some steps."""

from contextlib import suppress

import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.schemas.errors import RunFailed
from oddsmill.train.monitor.profiling import StepProfile


def test_a_trace_that_an_error_interrupts_does_not_keep_the_next_from_starting(tmp_path, capsys):
    show_messages()
    with suppress(RunFailed), StepProfile(tmp_path / "a", [1, 3]) as profile:
        profile.before(1)
        raise RunFailed("a shard is gone")
    with StepProfile(tmp_path / "b", [1, 1]) as profile:
        profile.before(1)
        profile.after(1, ())
        assert f"profile    {tmp_path / 'b'}" in capsys.readouterr().out
    assert all(list((tmp_path / name).rglob("*.xplane.pb")) for name in "ab")


@pytest.mark.parametrize(("steps", "traced"), [(None, []), ([2, 3], [2, 3])])
def test_only_the_steps_that_are_asked_for_are_traced(tmp_path, monkeypatch, steps, traced):
    running, found = [], []
    monkeypatch.setattr("jax.profiler.start_trace", running.append)
    monkeypatch.setattr("jax.profiler.stop_trace", running.clear)
    with StepProfile(tmp_path, steps) as profile:
        for step in range(1, 5):
            profile.before(step)
            found += [step] if running else []
            profile.after(step, ())
    assert found == traced
