"""A folder of transformers' in, a folder for transformers out, by the command line of both stages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.parallel.sharding import make_mesh, param_shardings
from oddsmill.train.weights.huggingface import load_params

ROOT = Path(__file__).parents[2]
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
# The vocabularies of the tokenizers; that of the second is rounded up, as in the published model.
MODELS = {
    "qwen3": (transformers.Qwen3Config, "minimind-chatml", {"vocab_size": 6400, "tie_word_embeddings": True}),
    "llama": (transformers.LlamaConfig, "phi-3-mini", {"vocab_size": 32064, "attention_bias": True}),
}
ANIMALS = ["cat", "dog", "owl", "fox", "hen", "bee", "ant", "cow", "pig", "rat"]


def conversations() -> list[dict[str, Any]]:
    """Some with a system turn, some of several turns: the good answer is polite."""
    rows = []
    for index in range(60):
        animal, other = ANIMALS[index % 10], ANIMALS[index * 7 // 10 % 10]
        prompt = [{"role": "user", "content": f"What does a {animal} say to a {other}? Question {index}."}]
        if index % 2:
            prompt = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}, *prompt]
        if index % 3 == 0:
            prompt = [{"role": "system", "content": "You know animals."}, *prompt]
        answers = {"chosen": f"Thank you for asking: the {animal} says hello.", "rejected": f"No idea, {index} times."}
        rows.append(
            {"prompt": prompt}
            | {side: [{"role": "assistant", "content": content}] for side, content in answers.items()}
        )
    return rows


def run(*arguments: object) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def our_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    config, _ = parse_config(read_config(folder), path=str(folder))
    definition, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    shardings = param_shardings(shapes, make_mesh(MeshConfig()))
    decoder = nnx.merge(definition, load_params(folder, shapes, shardings, num_layers=config.num_hidden_layers))
    position = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    return np.asarray(decoder.logits(decoder(ids, position, np.full_like(position, ids.shape[1]))))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_comes_back_trained(shared, name, tmp_path):
    config_class, tokenizer_name, fields = MODELS[name]
    model_folder, data, run_dir = tmp_path / "model", tmp_path / "data", tmp_path / "run"
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "data/tokenizers" / tokenizer_name)
    ids_of = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_class(**SHAPE, **fields, **ids_of))
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)

    rows = conversations()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "pipeline", "run", f"--source.path={tmp_path / 'rows.jsonl'}", f"--tokenizer={model_folder}",
        f"--output={data}", "--max_length=128", "--max_prompt_length=96",
    )  # fmt: skip
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest["ledger"]["pairs_out"] == len(rows)
    assert manifest["tokenizer"]["chat_template_sha256"] is not None
    run(
        "train", "run", f"--data={data}", f"--run_dir={run_dir}", f"--model.path={model_folder}",
        "--max_steps=30", "--total_batch_size=2", "--learning_rate=3e-3",
    )  # fmt: skip
    losses = [json.loads(line).get("loss") for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert len(losses) == 30 and losses[-1] < 0.8 * losses[0]

    exported = run_dir / "export"
    trained, loading = transformers.AutoModelForCausalLM.from_pretrained(
        exported, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(trained) is type(model)
    assert not torch.equal(trained.get_input_embeddings().weight, model.get_input_embeddings().weight)
    found = transformers.AutoTokenizer.from_pretrained(exported)
    assert found.get_vocab() == tokenizer.get_vocab()
    assert found.special_tokens_map == tokenizer.special_tokens_map
    assert trained.generation_config.eos_token_id == tokenizer.eos_token_id

    # Its chat template and its ids, on a prompt that the training saw.
    prompt = rows[0]["prompt"]
    text = found.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = found(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        reference = trained(input_ids=ids).logits.numpy()
    np.testing.assert_allclose(our_logits(exported, ids.numpy()), reference, atol=5e-5, rtol=1e-4)
    generated = trained.generate(ids, max_new_tokens=8, do_sample=False)
    assert generated.shape[1] > ids.shape[1]
    assert torch.equal(generated[:, : ids.shape[1]], ids)
    # What it writes follows from the logits above: greedy is the largest of them.
    assert int(generated[0, ids.shape[1]]) == int(reference[0, -1].argmax())
