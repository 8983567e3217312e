"""The console: a bar on a terminal alone, plain lines elsewhere."""

import io
import logging

import pytest
from rich.console import Console

from oddsmill.schemas.console import log, show_messages
from oddsmill.train.monitor.progress import RunProgress

STEP = {
    "loss": 1.5, "rewards/accuracies": 0.75, "log_odds_chosen": 0.25, "pairs_per_second": 12.34,
    "tokens_per_second": 5678.0, "mfu": 0.415,
}  # fmt: skip
EVALUATION = {"eval/loss": 2.0, "eval/rewards/accuracies": 0.5, "eval/log_odds_chosen": 0.1}


@pytest.fixture
def shown(capsys):
    """Returns the lines that a run of nine steps shows on a console."""
    show_messages()

    def show(**options) -> str:
        file = io.StringIO()
        console = Console(file=file, width=160, **options)
        with RunProgress(headline=["log_odds_chosen"], first_step=0, num_steps=9, console=console) as progress:
            for step in (1, 2, 9):
                progress.show(step, STEP)
            progress.show(9, EVALUATION)
        return capsys.readouterr().out + file.getvalue()

    return show


def test_without_a_terminal_there_are_plain_lines_of_the_first_and_last_step_and_each_evaluation(shown):
    assert shown().splitlines() == [
        f"step {step}/9  loss 1.5000  accuracy 0.750  log_odds_chosen +0.2500  12.3 pairs/s  5,678 tokens/s  MFU 41.5%"
        for step in (1, 9)
    ] + ["step 9/9  eval/loss 2.0000  accuracy 0.500  log_odds_chosen +0.1000"]


def test_on_a_terminal_there_is_a_bar_with_the_same_figures_and_the_time_left(shown):
    text = shown(force_terminal=True, color_system=None)
    assert "step 9/9 ━" in text and "5,678 tokens/s  MFU 41.5% 0:00:00" in text
    assert "\x1b[?25l" in text  # a live display
    assert "step 9/9  loss" not in text and "step 9/9  eval/loss 2.0000" in text


def test_a_process_without_the_console_shows_nothing(shown):
    log.setLevel(logging.ERROR)
    assert shown() == shown(force_terminal=True) == ""
