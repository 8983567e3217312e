"""metrics.jsonl: what is written, what a killed run's lines become, and what is read from it."""

import json

import jax
import pytest

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.monitor.metrics import MetricsWriter, last_evaluation, metrics_at
from oddsmill.train.monitor.written_lines import read_metrics
from tests.full_disks import files_end_at

STEP = {
    "loss": 1.5, "rewards/accuracies": 0.75, "log_odds_chosen": 0.25, "pairs_per_second": 12.0,
    "tokens_per_second": 5.0, "mfu": 0.4,
}  # fmt: skip
EVALUATION = {"eval/loss": 2.0, "eval/rewards/accuracies": 0.5, "eval/log_odds_chosen": 0.1}


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path)


def opened(files, first_step=0, **options):
    settings = {"report_to": [], "settings": {}, "num_steps": 9, "headline": ("log_odds_chosen",)}
    return MetricsWriter(files, first_step=first_step, **settings | options)


def lines(files):
    return [json.loads(line) for line in files.metrics.read_text().splitlines()]


def test_a_line_has_what_json_can_hold(files):
    with opened(files) as writer:
        writer.write(1, {**STEP, "loss": float("nan"), "data_order": "00ff"})
    assert lines(files) == [{"step": 1, **{name: STEP[name] for name in list(STEP)[1:]}, "data_order": "00ff"}]


@pytest.mark.parametrize(("evaluation_due", "kept"), [(False, [1, 2, 2]), (True, [1, 2])])
def test_lines_after_the_checkpoint_are_dropped_and_one_that_was_cut_off(files, evaluation_due, kept):
    with opened(files) as writer:
        for step in (1, 2, 3):
            writer.write(step, STEP)
            if step == 2:
                writer.write(step, EVALUATION)
    with files.metrics.open("a") as file:
        file.write('{"step": 2, "los')
    with opened(files, first_step=2, evaluation_due=evaluation_due) as writer:
        writer.write(3, STEP)
    assert [line["step"] for line in lines(files)] == [*kept, 3]
    assert ("eval/loss" in lines(files)[2]) is not evaluation_due


def test_another_process_than_the_first_writes_nothing(files, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with opened(files, report_to=["tensorboard", "wandb"]) as writer:
        writer.write(1, STEP)
        writer.write_samples(1, [{"prompt": "p", "answer": "a"}])
    assert not list(files.folder.iterdir())


def test_the_newest_evaluation_and_the_newest_value_of_each_metric_are_found(files):
    with opened(files) as writer:
        for step, loss in ((1, 3.0), (2, 2.0)):
            writer.write(step, {**STEP, "loss": loss})
            writer.write(step, {**EVALUATION, "eval/loss": loss})
        writer.write(3, STEP)
    assert last_evaluation(files.metrics) == {**EVALUATION, "eval/loss": 2.0}
    assert last_evaluation(files.metrics, step=1)["eval/loss"] == 3.0
    assert last_evaluation(files.metrics, step=3) == {}
    at_first = metrics_at(files.metrics, 1)
    assert (at_first["loss"], at_first["eval/loss"]) == (3.0, 3.0) and metrics_at(files.metrics, 9)["loss"] == 1.5
    assert list(at_first) == sorted(at_first) and not {"step", "mfu", "tokens_per_second"} & at_first.keys()


def test_a_last_line_that_was_cut_off_hides_no_metric(files):
    with opened(files) as writer:
        writer.write(1, STEP)
    whole = metrics_at(files.metrics, 9)
    with files.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    assert metrics_at(files.metrics, 9) == whole


def test_a_full_disk_is_one_message_and_a_step_of_its_own_is_cut_off(files):
    with pytest.raises(RunFailed) as failure, opened(files) as writer:  # noqa: PT012
        writer.write(1, STEP)
        with files_end_at(files.metrics.stat().st_size + 10):
            writer.write(2, STEP)
    assert f"{files.metrics} cannot be written (File too large); make room" in str(failure.value)
    assert list(read_metrics(files.metrics)) == [{"step": 1, **STEP}]


def test_all_sinks_are_closed_whatever_one_of_them_meets(files, monkeypatch):
    with pytest.raises(RuntimeError, match="the bar"), opened(files, report_to=["tensorboard"]) as writer:  # noqa: PT012
        opened_files = writer._file, writer._tensorboard._file
        monkeypatch.setattr(
            type(writer._progress), "__exit__", lambda *_: (_ for _ in ()).throw(RuntimeError("the bar"))
        )
    assert all(file.closed for file in opened_files)
