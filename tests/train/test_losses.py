"""Runs with each loss through the real command: metrics, console, evaluation, curves, resume, and its identity."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

from oddsmill.train.__main__ import main
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE

SETTINGS = {
    "simpo": ["--beta=2", "--simpo_gamma=1", "--cpo_alpha=0.5"],
    "cpo": ["--label_smoothing=0.1"],
}
TRL_METRICS = {"loss", "nll_loss", *(f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
               "logps/chosen", "logps/rejected"}  # fmt: skip
OF_SUMS = {"token_logps/chosen", "token_logps/rejected"}


def command(verb, *arguments):
    """Exit code, standard output and standard error of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([verb, *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rows"
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)
    write_dataset(folder, {"train": rows[5:], "eval": rows[:5]}, row_length=32, vocab_size=VOCAB_SIZE)
    return folder


@pytest.fixture(scope="module", params=SETTINGS)
def run(request, data, tmp_path_factory):
    """A run of four steps: the loss, its folder, its settings and what it said."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps(TINY))
    settings = [f"--data={data}", f"--model.config={folder / 'config.json'}", f"--run_dir={folder / 'run'}"]
    settings += ["--max_steps=4", "--eval_steps=2", "--save_steps=2", "--gradient_accumulation_steps=2"]
    settings += [f"--loss={request.param}", *SETTINGS[request.param]]
    code, out, err = command("run", *settings)
    assert code == 0, err
    return request.param, folder / "run", settings, out + err


def logged(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_console_and_curves_are_those_of_the_loss(run):
    loss, run_dir, _, said = run
    steps, evaluations = ([line for line in logged(run_dir) if name in line] for name in ("loss", "eval/loss"))
    assert len(steps) == 4 and len(evaluations) == 2
    wanted = TRL_METRICS | (OF_SUMS if loss == "cpo" else set())
    for line in steps:
        assert wanted <= line.keys() and not any("odds" in name for name in line)
    for line in evaluations:
        assert {f"eval/{name}" for name in wanted} <= line.keys()
    last = evaluations[-1]
    assert f"rewards/margins {last['eval/rewards/margins']:+.4f}" in said and "log_odds" not in said
    assert {"simpo": "SimPO", "cpo": "CPO"}[loss] + " at beta" in said and "NLL over the answer" in said
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (run_dir / "export" / "README.md").read_text()
    assert f"trained with {'SimPO' if loss == 'simpo' else 'CPO'}" in card and f"- {loss}\n" in card


def test_a_resumed_run_equals_a_straight_one_and_another_loss_is_refused(run, tmp_path):
    loss, run_dir, settings, _ = run
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "checkpoints" / "4")
    shutil.rmtree(copy / "export")
    settings = [argument for argument in settings if not argument.startswith("--run_dir")] + [f"--run_dir={copy}"]
    code, out, err = command("run", *settings)
    assert code == 0 and "checkpoint of step 2" in out + err, err
    rates = {"tokens_per_second", "pairs_per_second", "mfu"}
    resumed, straight = (
        [{name: line[name] for name in line.keys() - rates} for line in logged(folder)] for folder in (copy, run_dir)
    )
    assert resumed == straight
    exports = [(folder / "export" / "model.safetensors").read_bytes() for folder in (copy, run_dir)]
    assert exports[0] == exports[1]
    own = ("--loss", "--simpo_gamma", "--cpo_alpha", "--label_smoothing")
    others = [argument for argument in settings if argument.partition("=")[0] not in own]
    code, _, err = command("run", *others, "--loss=orpo")
    assert code == 2 and f"loss: {loss} -> orpo" in err, err


def test_eval_measures_as_in_the_run_and_describes_each_pair(run, data, tmp_path):
    _, run_dir, _, _ = run
    code, out, err = command("eval", f"--run_dir={run_dir}", f"--out={tmp_path / 'pairs.jsonl'}")
    assert code == 0, err
    found, in_run = json.loads(out), logged(run_dir)[-1]
    assert found.keys() | {"step"} == in_run.keys()
    for name, value in found.items():
        assert value == pytest.approx(in_run[name], rel=1e-5, abs=1e-6), name
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert np.mean([line["reward_margin"] for line in lines]) == pytest.approx(found["eval/rewards/margins"], rel=1e-5)
    assert np.mean([line["logp_chosen"] for line in lines]) == pytest.approx(found["eval/logps/chosen"], rel=1e-12)
    assert lines[0].keys() & {"preference_loss", "log_odds_ratio"} == set()
    # The weights of a run can be measured by another loss, with that loss's own settings.
    by_orpo = json.loads(command("eval", f"--run_dir={run_dir}", "--loss=orpo")[1])
    assert by_orpo["eval/rewards/chosen"] == pytest.approx(0.1 * by_orpo["eval/logps/chosen"])
    code, _, err = command("eval", f"--run_dir={run_dir}", "--loss=orpo", "--cpo_alpha=1.5")
    assert code == 2 and "--cpo_alpha=1.5" in err and "loss" in err
