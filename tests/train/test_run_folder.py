"""A run's folder describes itself: with the dataset gone, its checkpoints are exported, measured and answer prompts."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from oddsmill.train.__main__ import main
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import adopt_tokenizer, packed, random_pairs, write_dataset
from tests.train.decoders import TINY, decoder_config, split_decoder

GENERATION = {"eos_token_id": [1, 5], "temperature": 0.6}


def command(verb, *arguments):
    """Exit code, standard output and standard error of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([verb, *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["all weights", "lora"])
def finished(request, tmp_path_factory, make_tokenizer):
    """A run with two checkpoints whose dataset is gone, and without LoRA the model that it started from too."""
    folder = tmp_path_factory.mktemp("finished")
    tokenizer = make_tokenizer(folder / "tokenizer")
    vocab_size = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=vocab_size), 32)
    write_dataset(folder / "data", {"train": rows[4:], "eval": rows[:4]}, row_length=32, vocab_size=vocab_size)
    write_dataset(folder / "other", {"eval": rows[:4]}, row_length=32, vocab_size=vocab_size)
    for name in ("data", "other"):
        shutil.copytree(tokenizer, folder / name / "tokenizer", dirs_exist_ok=True)
        adopt_tokenizer(folder / name)
    model = folder / "model"
    model.mkdir()
    weights = split_decoder(decoder_config(vocab_size=vocab_size), jnp.float32)[1]
    save_params(weights, model, num_layers=TINY["num_hidden_layers"])
    (model / "config.json").write_text(json.dumps(TINY | {"vocab_size": vocab_size}))
    (model / "generation_config.json").write_text(json.dumps(GENERATION))
    lora = ["--lora.rank=2", "--lora.export=both"] if request.param == "lora" else []
    code, _, error = command(
        "run", f"--data={folder / 'data'}", f"--model.path={model}", f"--run_dir={folder / 'run'}", "--max_steps=4",
        "--save_steps=2", "--total_batch_size=4", "--learning_rate=1e-2", "--report_to=[]", *lora,
    )  # fmt: skip
    assert code == 0, error
    shutil.rmtree(folder / "data")
    if not lora:
        shutil.rmtree(model)
    (folder / "run").rename(folder / "moved")
    return folder / "moved", folder / "other"


def test_an_export_is_what_the_run_left(finished, tmp_path):
    run_dir, _ = finished
    assert command("export", f"--run_dir={run_dir}", f"--out={tmp_path / 'out'}")[0] == 0
    assert contents(tmp_path / "out") == contents(run_dir / "export")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == GENERATION
    if (run_dir / "adapter").exists():
        assert command("export", f"--run_dir={run_dir}", f"--out={tmp_path / 'adapter'}", "--adapter")[0] == 0
        assert contents(tmp_path / "adapter") == contents(run_dir / "adapter")


def test_a_checkpoint_answers_as_its_export_does(finished, tmp_path):
    run_dir, _ = finished
    prompt = ("--prompt=Tell me a story", "--max_new_tokens=8")
    assert command("export", f"--run_dir={run_dir}", f"--out={tmp_path / 'first'}", "--checkpoint=2")[0] == 0
    for of_run, of_model in (([], run_dir / "export"), (["--checkpoint=2"], tmp_path / "first")):
        code, out, err = command("generate", f"--run_dir={run_dir}", *of_run, *prompt)
        assert code == 0, err
        assert f"{run_dir}: the checkpoint of step {2 if of_run else 4}" in err
        assert out and out == command("generate", f"--model.path={of_model}", *prompt)[1]


def test_it_is_measured_on_rows_that_are_given_and_without_them_refused(finished):
    run_dir, other = finished
    code, out, _ = command("eval", f"--run_dir={run_dir}", f"--data={other}")
    assert code == 0
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(out)
    assert found["eval/loss"] == pytest.approx(last["eval/loss"], rel=1e-5)
    code, out, err = command("eval", f"--run_dir={run_dir}")
    assert (code, out) == (2, "") and "data, the data of the run, are not there any more; give rows by --data" in err


def test_an_altered_tokenizer_of_a_run_is_not_exported(finished, tmp_path):
    run_dir, _ = finished
    path, sums = run_dir / "tokenizer" / "tokenizer_config.json", run_dir / "oddsmill.sha256"
    whole, whole_sums = path.read_bytes(), sums.read_bytes()
    sums.unlink()  # as an older version left the folder
    path.write_bytes(whole.replace(b"{", b'{"add_bos_token": false, ', 1))
    code, _, err = command("export", f"--run_dir={run_dir}", f"--out={tmp_path / 'out'}")
    path.write_bytes(whole)
    sums.write_bytes(whole_sums)
    assert code == 2 and "tokenizer_config.json was altered: its sha256 is not the manifest's" in err
    assert not (tmp_path / "out").exists()


def test_a_run_of_an_older_version_says_what_to_do(finished, tmp_path):
    run_dir, _ = finished
    shutil.copytree(run_dir, tmp_path / "older")
    (tmp_path / "older" / "manifest.json").unlink()
    code, _, err = command("export", f"--run_dir={tmp_path / 'older'}", f"--out={tmp_path / 'out'}")
    assert code == 2 and "has no manifest.json: an older version began this run" in err


def test_no_file_that_describes_the_run_and_none_of_its_export_is_altered_unseen(finished, tmp_path):
    run_dir, _ = finished
    shutil.copytree(run_dir, tmp_path / "altered")
    files = [path for path in sorted((tmp_path / "altered").glob("*")) if path.suffix in (".yaml", ".json")]
    assert {"settings.yaml", "manifest.json", "config.json"} <= {path.name for path in files}
    described = ["export", f"--run_dir={tmp_path / 'altered'}", f"--out={tmp_path / 'out'}"]
    model = tmp_path / "altered" / "export"
    exported = ["generate", f"--model.path={model}", "--prompt=Tell me"]
    cases = [(described, path) for path in files if path.name not in ("verified_shards.json", "wandb.json")]
    cases += [(described, tmp_path / "altered" / "tokenizer" / "tokenizer.json")]
    cases += [(exported, model / name) for name in ("config.json", "model.safetensors", "tokenizer_config.json")]
    for arguments, path in cases:
        whole = path.read_bytes()
        place = len(whole) * 2 // 3
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, out, err = command(*arguments)
        assert code == 2 and not out and path.name in err and "oddsmill.sha256" in err, (path, err)
        path.write_bytes(whole)
    assert not (tmp_path / "out").exists()
    (model / "README.md").write_text("A card of one's own.")
    assert command(*exported, "--max_new_tokens=2")[0] == 0
