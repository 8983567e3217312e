"""`oddsmill train eval` on a run, its checkpoints and its export, and what it refuses."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import read_manifest
from oddsmill.train.__main__ import main
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.commands.evaluate import _of_model, rows_for_run
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.parallel.processes import join_processes
from oddsmill.train.prepare import prepare
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import edit_manifest, packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE, decoder_config, split_decoder


def command(verb, *arguments):
    """Exit code, standard output and standard error of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([verb, *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def rows():
    return packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rows"
    write_dataset(folder, {"train": rows[5:], "eval": rows[:5]}, row_length=32, vocab_size=VOCAB_SIZE)
    return folder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A folder of random weights with the tokenizer of the data."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(TINY))
    (folder / "tokenizer.json").write_bytes((data / "tokenizer" / "tokenizer.json").read_bytes())
    save_params(split_decoder(decoder_config())[1], folder, num_layers=TINY["num_hidden_layers"])
    return folder


@pytest.fixture(scope="module")
def held_out(rows, tmp_path_factory):
    """Another folder, whose eval split is measured in the run."""
    folder = tmp_path_factory.mktemp("held_out") / "rows"
    write_dataset(folder, {"eval": rows[9:12]}, row_length=32, vocab_size=VOCAB_SIZE)
    return folder


@pytest.fixture(scope="module")
def trained(data, held_out, tmp_path_factory):
    """A run of four steps with two checkpoints, and its two evaluations by step."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.json").write_text(json.dumps(TINY))
    settings = [f"--data={data}", f"--model.config={folder / 'config.json'}", f"--run_dir={folder / 'run'}"]
    settings += [
        f"--eval_data={held_out}",
        "--max_steps=4",
        "--eval_steps=2",
        "--save_steps=2",
        "--eval_batch_size=3",
        "--beta=0.2",
    ]
    code, _, err = command("run", *settings)
    assert code == 0, err
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return folder / "run", {line.pop("step"): line for line in lines if "eval/loss" in line}


def test_the_metrics_are_those_of_the_pairs(data, model, rows, tmp_path):
    out, metrics = tmp_path / "pairs.jsonl", tmp_path / "metrics.json"
    code, printed, err = command(
        "eval", f"--data={data}", f"--model.path={model}", f"--out={out}", f"--metrics_out={metrics}"
    )
    assert code == 0, err
    found = json.loads(printed)
    assert json.loads(metrics.read_text()) == found
    pairs = [pair for row in rows[:5] for pair in row]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [int(line["id"], 16) for line in lines] == [pair.id for pair in pairs]
    for side in ("prompt", "chosen", "rejected"):
        assert [line[f"{side}_tokens"] for line in lines] == [len(getattr(pair, side)) for pair in pairs]
    assert np.mean([line["logp_chosen"] for line in lines]) == pytest.approx(found["eval/logps/chosen"], rel=1e-12)
    accurate = [line["logp_chosen"] > line["logp_rejected"] for line in lines]
    assert np.mean(accurate) == found["eval/rewards/accuracies"]
    nll = np.average([line["nll"] for line in lines], weights=[line["nll_tokens"] for line in lines])
    assert nll == pytest.approx(found["eval/nll_loss"], rel=1e-12)


@pytest.mark.slow
def test_a_run_and_its_export_measure_as_in_the_run(trained, held_out):
    run_dir, evaluations = trained
    of_run = [f"--run_dir={run_dir}"]
    of_model = [f"--model.path={run_dir / 'export'}", "--beta=0.2", f"--data={held_out}"]
    for step, arguments in ((4, of_run), (2, [*of_run, "--checkpoint=2"]), (4, of_model)):
        code, out, err = command("eval", "--batch_size=2", *arguments)
        assert code == 0, err
        found = json.loads(out)
        assert found.keys() == evaluations[step].keys()
        for name, value in evaluations[step].items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_settings_of_the_loss_are_obeyed(trained):
    run_dir, evaluations = trained
    found = json.loads(command("eval", f"--run_dir={run_dir}", "--beta=0.7")[1])
    assert found["eval/rewards/chosen"] == pytest.approx(3.5 * evaluations[4]["eval/rewards/chosen"], rel=1e-5)
    found = json.loads(command("eval", f"--run_dir={run_dir}", "--nll_scope=response")[1])
    assert found["eval/nll_loss"] != pytest.approx(evaluations[4]["eval/nll_loss"], rel=1e-3)
    assert found["eval/logps/chosen"] == pytest.approx(evaluations[4]["eval/logps/chosen"], rel=1e-5)


def test_the_rows_of_a_run_are_those_that_it_trained_on_and_measured(data, held_out, tmp_path):
    own, other = (Dataset(str(folder), read_manifest(folder)) for folder in (data, held_out))
    run = SimpleNamespace(data=own, eval_data=other, files=RunFiles(tmp_path))
    for settings, expected in (
        ({}, other),
        ({"split": "train"}, own),
        ({"data": str(data)}, own),
        ({"data": str(held_out), "split": "train"}, other),
    ):
        assert rows_for_run(EvaluateConfig(run_dir="run", **settings), run) == expected, settings


def test_rows_that_begin_otherwise_than_those_of_the_run_are_refused(data, tmp_path):
    folders = []
    for adds_bos in (True, False):
        folders.append(tmp_path / str(adds_bos))
        shutil.copytree(data, folders[-1])
        edit_manifest(folders[-1], lambda fields, adds=adds_bos: fields["tokenizer"].update(adds_bos=adds))
    own = Dataset(str(folders[0]), read_manifest(folders[0]))
    run = SimpleNamespace(data=own, eval_data=own, files=RunFiles(tmp_path))
    for same in (data, folders[0]):
        assert rows_for_run(EvaluateConfig(run_dir="run", data=str(same)), run).folder == str(same)
    with pytest.raises(Refused, match="they differ in: BOS before texts"):
        rows_for_run(EvaluateConfig(run_dir="run", data=str(folders[1])), run)


def test_rows_of_a_run_that_are_gone_or_others_now_are_refused(data, held_out, tmp_path):
    moved = tmp_path / "moved"
    gone = Dataset(str(moved), read_manifest(data))
    run = SimpleNamespace(data=gone, eval_data=gone, files=RunFiles(tmp_path))
    with pytest.raises(Refused, match=f"{moved}, the data of the run, are not there any more; give rows by --data"):
        rows_for_run(EvaluateConfig(run_dir="run"), run)
    shutil.copytree(held_out, moved)
    with pytest.raises(Refused, match="was preprocessed anew since the run; give rows by --data"):
        rows_for_run(EvaluateConfig(run_dir="run"), run)


def test_one_process_alone_speaks(data, model, tmp_path, monkeypatch, capsys):
    """Notes on fields that are not known, and on dropout that is not applied."""
    folder = tmp_path / "noted"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text(json.dumps({**TINY, "attention_dropout": 0.1, "unheard_of": 1}))
    evaluated = EvaluateConfig(model=ModelConfig(path=str(folder)), data=str(data))
    trained = TrainConfig(model=ModelConfig(path=str(folder)), data=str(data), run_dir=str(tmp_path / "run"))
    monkeypatch.setattr(
        "oddsmill.train.parallel.sharding.row_share", lambda mesh: None
    )  # called for its check; there is no process 1
    for process, notes in ((0, 3), (1, 0)):
        show_messages()
        monkeypatch.setattr(jax, "process_index", lambda backend=None, process=process: process)
        monkeypatch.setattr("oddsmill.train.parallel.processes.process_index", lambda process=process: process)
        join_processes(evaluated.distributed)
        _of_model(evaluated)
        prepare(trained)
        out = capsys.readouterr().out
        assert len(out.splitlines()) == notes, out
        assert ("unheard_of" in out) == ("dropout is not applied" in out) == (process == 0)


def test_what_does_not_fit_is_refused(data, model, rows, tmp_path):
    of_run, of_model, data = f"--run_dir={tmp_path}", f"--model.path={model}", f"--data={data}"
    write_dataset(tmp_path / "larger", {"train": rows}, row_length=32, vocab_size=VOCAB_SIZE + 1)
    write_dataset(tmp_path / "no_eval", {"train": rows}, row_length=32, vocab_size=VOCAB_SIZE)
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.json").write_bytes((model / "config.json").read_bytes())
    (other / "tokenizer.json").write_text("{}")
    for arguments, message in (
        ([of_run, of_model], "give either --model.path"),
        ([], "give either --model.path"),
        ([of_model], "--data=None: is needed"),
        ([of_model, data, "--checkpoint=2"], "--checkpoint=2: has no effect without --run_dir"),
        ([of_run, "--compute_dtype=bfloat16"], "--compute_dtype=bfloat16: has no effect with --run_dir="),
        ([of_run], "not the folder of a run"),
        ([of_model, f"--data={tmp_path}"], "has no manifest.json"),
        ([of_model, f"--data={tmp_path / 'larger'}"], "the token id 48, and the model has ids below 48"),
        ([of_model, f"--data={tmp_path / 'no_eval'}"], "has no rows of it"),
        ([f"--model.path={other}", data], "another tokenizer"),
        ([of_model, data, "--mesh.tensor=3"], "--mesh.tensor=3: their product must be"),
        ([of_model, data, f"--out={tmp_path / 'no' / 'pairs.jsonl'}"], "make it first"),
        ([of_model, data, "--distributed.num_processes=2"], "--distributed.process_id must be given too"),
    ):
        code, out, err = command("eval", *arguments)
        assert (code, out) == (2, ""), arguments
        refusals = [line for line in err.splitlines() if line.startswith("refused: ")]
        assert len(refusals) == 1 and message in refusals[0], refusals
        assert "Traceback" not in err
