"""Models that cannot be trained on the data: one message by the command line, exit code 2, and nothing written."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oddsmill.train.__main__ import main
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE, decoder_config, split_decoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with `data` and a `model` that fits it, and the weights once more in shards."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = packed(random_pairs(np.random.default_rng(0), 20, vocab_size=VOCAB_SIZE), 32)
    write_dataset(folder / "data", {"train": rows}, row_length=32, vocab_size=VOCAB_SIZE)
    params = split_decoder(decoder_config(), jnp.float32)[1]
    for name, max_shard_size in (("model", "5GB"), ("shards", "4KB")):
        (folder / name).mkdir()
        save_params(params, folder / name, num_layers=TINY["num_hidden_layers"], max_shard_size=max_shard_size)
    (folder / "model" / "config.json").write_text(json.dumps(TINY))
    (folder / "model" / "tokenizer.json").write_bytes((folder / "data/tokenizer/tokenizer.json").read_bytes())
    return folder


def no_config(model, _):
    (model / "config.json").unlink()


def truncated(model, _):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-1])


def wrong_index(model, inputs):
    (model / WEIGHTS).unlink()
    for file in (inputs / "shards").iterdir():
        shutil.copy(file, model)
    index = json.loads((model / INDEX).read_text())
    index["weight_map"].pop("model.norm.weight")
    (model / INDEX).write_text(json.dumps(index))


def changed_config(**changes):
    return lambda model, _: (model / "config.json").write_text(json.dumps(TINY | changes))


def another_tokenizer(model, _):
    (model / "tokenizer.json").write_text("{}")


def pickles(model, _):
    (model / WEIGHTS).rename(model / "pytorch_model.bin")


def a_tensor_less(model, _):
    tensors = load_file(model / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, model / WEIGHTS)


@pytest.mark.parametrize("lora", [[], ["--lora.rank=2"]])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_config, "model/config.json: no such file; give a Hugging Face config.json or the folder that holds it"),
        (truncated, f"model/{WEIGHTS} is damaged, cut short or not safetensors"),
        (wrong_index, "model.norm.weight of model-"),
        (changed_config(vocab_size=VOCAB_SIZE - 1), "preprocess with the model's own tokenizer"),
        (changed_config(hidden_size="16"), 'model/config.json: hidden_size="16": must be a whole number of at least 1'),
        (changed_config(num_hidden_layers=3), "missing model.layers.2."),
        (changed_config(num_attention_heads=8, head_dim=4), "q_proj.weight has shape [16, 16], config.json makes it"),
        (another_tokenizer, "was made with another tokenizer than"),
        (pickles, "pytorch_model.bin alone; only safetensors are read, since a pickle can run code"),
        (a_tensor_less, "weights do not fit config.json: missing model.norm.weight"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    inputs, tmp_path, capsys, change, message, lora
):
    model, run_dir = tmp_path / "model", tmp_path / "run"
    shutil.copytree(inputs / "model", model)
    change(model, inputs)
    assert main(["run", f"--data={inputs / 'data'}", f"--model.path={model}", f"--run_dir={run_dir}", *lora]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("refused: ") and message in lines[0]
    assert not run_dir.exists()


def test_a_run_folder_that_cannot_be_made_is_refused(inputs, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    settings = [f"--data={inputs / 'data'}", f"--model.path={inputs / 'model'}"]
    assert main(["run", *settings, f"--run_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "file is a file, and no folder)" in capsys.readouterr().err
