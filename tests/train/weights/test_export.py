"""What a run leaves: a Hugging Face folder, whole or not at all, with nothing of the machine in it."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from oddsmill.schemas.manifest import read_manifest
from oddsmill.schemas.version import tool_version
from oddsmill.train.__main__ import main
from oddsmill.train.weights.export import with_dtype
from oddsmill.train.weights.huggingface import save_params
from tests.datasets import adopt_tokenizer, packed, random_pairs, write_dataset
from tests.train.decoders import TINY, VOCAB_SIZE, decoder_config, split_decoder

CONFIG = {**TINY, "torch_dtype": "bfloat16", "bos_token_id": 3, "eos_token_id": 1, "unheard_of": {"kept": True}}
STEPS, SAVED = 4, 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A dataset and a model folder of bfloat16 weights."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = packed(random_pairs(np.random.default_rng(0), 60, vocab_size=VOCAB_SIZE), 32)
    write_dataset(folder / "data", {"train": rows[4:], "eval": rows[:4]}, row_length=32, vocab_size=VOCAB_SIZE)
    templates = folder / "data" / "tokenizer" / "additional_chat_templates"
    templates.mkdir()
    (templates / "tools.jinja").write_text("{{ messages }}")
    adopt_tokenizer(folder / "data")
    model = folder / "model"
    model.mkdir()
    save_params(split_decoder(decoder_config(), jnp.bfloat16)[1], model, num_layers=TINY["num_hidden_layers"])
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "tokenizer.json").write_bytes((folder / "data" / "tokenizer" / "tokenizer.json").read_bytes())
    (model / "merges.txt").write_text("a b\n")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5], "temperature": 0.6}))
    return folder


def run(inputs, run_dir, *arguments):
    settings = [f"--data={inputs / 'data'}", f"--model.path={inputs / 'model'}", f"--run_dir={run_dir}"]
    settings += [f"--max_steps={STEPS}", f"--save_steps={SAVED}", "--save_total_limit=9", "--learning_rate=0.01"]
    return main(["run", *settings, "--param_dtype=bfloat16", "--total_batch_size=4", *arguments])


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    assert run(inputs, run_dir) == 0
    return run_dir


def export(run_dir, out, *arguments):
    return main(["export", f"--run_dir={run_dir}", f"--out={out}", *arguments])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_newest_checkpoint_gives_what_the_end_of_the_run_gave(finished, tmp_path):
    assert export(finished, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(finished / "export")


@pytest.fixture(scope="module")
def adapted(inputs, tmp_path_factory):
    """A LoRA run on the bfloat16 model, which leaves both forms."""
    run_dir = tmp_path_factory.mktemp("adapted")
    assert run(inputs, run_dir, "--lora.rank=2", "--lora.export=both") == 0
    return run_dir


def test_a_lora_run_exports_its_checkpoints_merged(inputs, adapted, tmp_path):
    assert export(adapted, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(adapted / "export")
    base = load_file(inputs / "model" / "model.safetensors")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == base.keys()
    changed = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)


def test_adapters_are_exported_by_themselves_as_at_the_end_of_the_run(adapted, tmp_path, capsys):
    assert export(adapted, tmp_path / "out", "--adapter") == 0
    made = contents(tmp_path / "out")
    assert made == contents(adapted / "adapter")
    assert f"adapter    {tmp_path / 'out'} (step {STEPS})" in capsys.readouterr().out
    for name in ("tokenizer.json", "merges.txt", "adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert name in made
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "peft"
    assert "as LoRA adapters of rank 2 that lie here, for 4 steps" in card.text
    assert "AutoPeftModelForCausalLM.from_pretrained" in card.text


def test_merged_weights_in_a_wider_dtype_were_not_rounded_to_the_bases(inputs, adapted, tmp_path):
    assert export(adapted, tmp_path / "out", "--dtype=float32") == 0
    name = "model.layers.1.mlp.up_proj"
    adapter = load_file(adapted / "adapter" / "adapter_model.safetensors")
    A, B = (adapter[f"base_model.model.{name}.lora_{side}.weight"].astype(np.float32) for side in "AB")
    base = load_file(inputs / "model" / "model.safetensors")[f"{name}.weight"].astype(np.float32)
    found = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    np.testing.assert_allclose(found, base + 32 / 2 * B @ A, rtol=1e-6, atol=1e-7)
    assert not np.array_equal(found, found.astype(jnp.bfloat16))


def test_an_earlier_checkpoint_in_another_dtype_and_in_shards(inputs, finished, tmp_path):
    out = tmp_path / "out"
    assert export(finished, out, f"--checkpoint={SAVED}", "--dtype=float32", "--max_shard_size=4KB") == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    tensors = {}
    for shard in sorted(set(index["weight_map"].values())):
        tensors |= load_file(out / shard)
    newest = load_file(finished / "export" / "model.safetensors")
    base = load_file(inputs / "model" / "model.safetensors")
    assert tensors.keys() == newest.keys() == base.keys() == index["weight_map"].keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32 and newest[name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(tensor, tensor.astype(jnp.bfloat16))  # cast, not trained again
    for other in (newest, base):
        assert any(not np.array_equal(tensors[name], other[name]) for name in tensors)
    assert json.loads((out / "config.json").read_text()) == {**CONFIG, "torch_dtype": "float32"}
    assert f"for {SAVED} steps" in (out / "README.md").read_text()


def test_config_tokenizer_and_generation_config_go_out_as_they_came_in(inputs, finished):
    folder = finished / "export"
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": [1, 5], "temperature": 0.6}
    for name in ("tokenizer.json", "additional_chat_templates/tools.jinja"):
        assert (folder / name).read_bytes() == (inputs / "data" / "tokenizer" / name).read_bytes()
    assert (folder / "merges.txt").read_text() == "a b\n"


def test_the_hub_reads_the_card_and_the_card_says_what_was_done(inputs, finished):
    card = ModelCard.load(finished / "export" / "README.md")
    assert card.data.tags == ["oddsmill", "orpo", "preference"]
    assert (card.data.license, card.data.library_name) == ("unknown", "transformers")
    assert card.data.base_model is None
    manifest = read_manifest(inputs / "data")
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    for part in (
        manifest.sha256,
        f"for {STEPS} steps",
        "learning_rate: 0.01",
        f"| eval/loss | {last['eval/loss']:.6g} |",
        "from the weights of a local folder",
        "AutoModelForCausalLM.from_pretrained",
    ):
        assert part in card.text
    assert f"Made with oddsmill {tool_version()}." in card.text
    settings = yaml.safe_load(card.text.rpartition("```yaml")[2].rpartition("```")[0])
    assert not {"data", "run_dir"} & settings.keys()
    assert settings["model"]["path"] == "model"
    assert not re.search(r"(^|[\s'\"(`])/\w", card.content, re.MULTILINE)  # no path of any machine
    for path in (inputs, finished):
        for name, content in contents(finished / "export").items():
            assert str(path).encode() not in content, name


def test_a_failed_export_leaves_the_former_one_and_nothing_else(finished, tmp_path, monkeypatch, capsys):
    def fails(params, folder, **_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oddsmill.train.weights.export.save_params", fails)
    out = tmp_path / "out"
    assert export(finished, out) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "oddsmill train export" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
    before = contents(finished / "export")
    assert main(["run", "--config", str(finished / "settings.yaml")]) == 1  # exports once more
    assert contents(finished / "export") == before
    assert not [path for path in finished.iterdir() if path.name.startswith("export.")]


def test_what_cannot_be_exported_is_refused(finished, tmp_path, capsys):
    def refused(*arguments, run_dir=finished, out=tmp_path / "out"):
        capsys.readouterr()
        assert export(run_dir, out, *arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "not the folder of a run" in refused(run_dir=tmp_path / "nowhere")
    assert f"there are those of step {SAVED}, {STEPS}" in refused("--checkpoint=3")
    assert "such as 5GB" in refused("--max_shard_size=5")
    assert "expected one of float32, bfloat16, float16" in refused("--dtype=int8")
    assert "trained no adapters" in refused("--adapter")
    assert "--dtype=float32: has no effect with --adapter=True" in refused("--adapter", "--dtype=float32")
    assert "--max_shard_size=1GB: has no effect with --adapter=True" in refused("--adapter", "--max_shard_size=1GB")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    assert "is not empty" in refused(out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("came_in", "goes_out"),
    [
        ({"torch_dtype": "float16"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "float16"}, {"dtype": "bfloat16"}),
        ({"dtype": "float16", "torch_dtype": "float16"}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
        ({}, {"torch_dtype": "bfloat16"}),
    ],
)
def test_the_field_of_the_dtype_is_the_one_that_came_in(came_in, goes_out):
    assert with_dtype({"vocab_size": 1, **came_in}, "bfloat16") == {"vocab_size": 1, **goes_out}
