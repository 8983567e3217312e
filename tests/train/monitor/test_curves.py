"""The picture of a run's curves."""

import importlib
import json

import matplotlib
import pytest

import oddsmill.train.monitor.curves
from oddsmill.train.loss.orpo import Orpo


@pytest.fixture
def backend():
    """Another one than a run would choose, as in a notebook."""
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    yield "svg"
    matplotlib.use(before)


def test_a_run_without_a_finite_loss_has_an_empty_picture_and_no_warning(tmp_path, recwarn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "skipped_steps": 1.0}\n')
    oddsmill.train.monitor.curves.plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", Orpo(beta=0.1))
    assert (tmp_path / "curves.png").is_file()
    assert not recwarn.list


def test_the_curves_are_drawn_without_a_change_to_the_figures_of_a_notebook(backend, tmp_path):
    values = {"loss": 2.0, "logps/chosen": -1.0, "log_odds_chosen": 0.1, "rewards/accuracies": 0.5}
    lines = [{"step": 1, **values}, {"step": 2, **values}, {"step": 2, "eval/loss": 1.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = importlib.reload(oddsmill.train.monitor.curves)  # a choice of the backend would be one at import
    picture = tmp_path / "curves.png"
    curves.plot_curves(tmp_path / "metrics.jsonl", picture, Orpo(beta=0.1))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend
