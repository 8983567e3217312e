"""Progress: what is shown, where, and that a quick run shows nothing."""

import io
import re
import time
from collections.abc import Callable

import pytest

from oddsmill.pipeline import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, *, quiet_s: float = 0.0) -> str:
    with progress.shown(stream, quiet_s=quiet_s, line_every_s=0.1):
        progress.count(rows_read=1234, drops=4)
        progress.count(pairs=1230)
        progress.count(rows_written=100)
        time.sleep(0.6)
    return stream.getvalue()


def test_a_line_now_and_then_says_all_counters():
    lines = show(io.StringIO()).splitlines()
    assert 2 <= len(lines) <= 7
    assert re.fullmatch(r"1,234 rows read \([\d,]+/s\), 1,230 pairs, 4 dropped, 100 rows written, \d+ s", lines[-1])


def test_a_terminal_is_refreshed_in_place_and_left_clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = show(Terminal())
    assert "1,234 rows read" in shown
    assert "\x1b[2K" in shown.rpartition("rows written")[2]  # the line is taken away at the end


def test_counters_that_are_taken_are_counted_elsewhere():
    progress.take()
    progress.count(pairs=2, drops=1)
    progress.count(pairs=1)
    assert progress.take() == {"pairs": 3, "drops": 1}
    assert progress.take() == {}


def test_a_quick_run_shows_nothing():
    assert show(io.StringIO(), quiet_s=30.0) == ""


def test_counters_begin_at_0_each_time():
    show(io.StringIO())
    with progress.shown(io.StringIO()):
        assert progress.line(time.monotonic()).startswith("0 rows read (0/s), 0 pairs, 0 dropped, 0 rows written")


def test_the_end_is_not_waited_for():
    started = time.monotonic()
    with progress.shown(io.StringIO(), quiet_s=30.0):
        pass
    with progress.shown(io.StringIO(), quiet_s=0.0, line_every_s=30.0):
        time.sleep(0.05)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("beam", [(), ("--direct_num_workers=2",)])
def test_a_run_raises_the_counters_to_what_it_did(
    run: Callable, write_rows: Callable, triples: Callable, beam: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    rows = triples(40)
    stream, shown = io.StringIO(), progress.shown
    monkeypatch.setattr(progress, "shown", lambda: shown(stream, quiet_s=0.0, line_every_s=0.01))
    path = write_rows("rows.jsonl", [*rows, rows[0], {"prompt": "no answers"}, b"broken"])
    manifest = run("out", path, beam=beam, dedup="exact").manifest
    written = sum(split["rows"] for split in manifest["splits"].values())
    assert stream.getvalue()
    assert re.match(rf"43 rows read \([\d,]+/s\), 40 pairs, 3 dropped, {written} rows written", progress.line(0.0))


def test_workers_in_other_processes_are_not_watched(
    run: Callable, write_rows: Callable, triples: Callable, monkeypatch: pytest.MonkeyPatch
):
    def refuse() -> None:
        raise AssertionError("shown")

    monkeypatch.setattr(progress, "shown", refuse)
    run("out", write_rows("rows.jsonl", triples(9)), beam=("--direct_running_mode=multi_processing",))
