"""Answers before and after a training: held-out prompts, greedy, one file to read side by side."""

import json
from pathlib import Path

import pytest
import tokenizers

from oddsmill.schemas.manifest import read_manifest
from oddsmill.schemas.record import Pair
from oddsmill.train.__main__ import main
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.generation.generate import Answer
from oddsmill.train.monitor.samples import Samples, side_by_side
from oddsmill.train.monitor.written_lines import read_samples
from tests.datasets import adopt_tokenizer, write_dataset
from tests.train.decoders import TINY

ANSWERS = {"How are you?": "Fine, thanks.", "Who is there?": "It is me."}


@pytest.fixture(scope="module")
def arguments(make_tokenizer, tmp_path_factory):
    """A dataset whose held-out prompts are those of the training, so that a model can learn the answers by heart."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer_folder = make_tokenizer(folder / "tokenizer")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def pair(number, prompt, answer):
        sides = [tokenizer.encode(text, add_special_tokens=False).ids for text in (" " + answer, " Go away!")]
        prompt = [1, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        return Pair(prompt=prompt, chosen=[*sides[0], 2], rejected=[*sides[1], 2], id=number)

    rows = [[pair(number, *item)] for number, item in enumerate(ANSWERS.items(), 1)]
    vocab_size = tokenizer.get_vocab_size()
    write_dataset(folder / "data", {"train": rows * 4, "eval": rows}, row_length=64, vocab_size=vocab_size, eos_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "data" / "tokenizer" / name).write_bytes((tokenizer_folder / name).read_bytes())
    adopt_tokenizer(folder / "data")
    assert read_manifest(folder / "data").tokenizer.vocab_size == vocab_size
    (folder / "config.json").write_text(json.dumps({**TINY, "vocab_size": vocab_size, "initializer_range": 0.1}))
    return [f"--data={folder / 'data'}", f"--model.config={folder / 'config.json'}", "--learning_rate=3e-2"]


@pytest.mark.slow
def test_the_answers_of_the_last_step_are_what_was_learned(arguments, tmp_path, capsys):
    settings = [*arguments, f"--run_dir={tmp_path}", "--max_steps=40", "--generation_num_prompts=5"]
    assert main(["run", *settings, "--generation_max_new_tokens=16", "--report_to=[]"]) == 0
    out = capsys.readouterr().out
    lines = list(read_samples(tmp_path / "samples.jsonl"))
    assert [(line["step"], line["prompt"]) for line in lines] == [(step, p) for step in (0, 40) for p in ANSWERS]
    for line in lines:
        assert line["chosen"] == " " + ANSWERS[line["prompt"]]
        assert (line["answer"] == line["chosen"]) == (line["step"] == 40)
    assert f"step 40  {' Fine, thanks.'.strip()!r}" in out and str(tmp_path / "samples.jsonl") in out


def test_the_file_keeps_one_answer_a_prompt_and_step_and_only_what_was_said(arguments, tmp_path, monkeypatch):
    """Held-out prompts, greedy; the answers of a step that is taken again are written again."""
    data = Path(arguments[0].removeprefix("--data="))
    tokenizer = tokenizers.Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    asked = []

    def generate(definition, params, decoder_config, prompts, *, sampling, stop_ids):
        asked.append((prompts, sampling, stop_ids))
        return [Answer([*tokenizer.encode(f" {params}{number}").ids, 2], "stop") for number in range(len(prompts))]

    monkeypatch.setattr("oddsmill.train.monitor.samples.generate", generate)
    samples = samples_of(data, tmp_path, num_prompts=9)
    for step, params in ((0, "before"), (3, "other"), (3, "after")):
        samples.write(step, params)
    expected = [(step, number) for step in ("before", "after") for number in range(len(ANSWERS))]
    lines = list(read_samples(tmp_path / "samples.jsonl"))
    assert [line["answer"] for line in lines] == [f" {params}{number}" for params, number in expected]
    assert [(line["step"], line["prompt"], line["chosen"]) for line in lines] == [
        (step, prompt, " " + answer) for step in (0, 3) for prompt, answer in ANSWERS.items()
    ]
    prompts, sampling, stop_ids = asked[0]
    assert [tokenizer.decode(prompt) for prompt in prompts] == list(ANSWERS) and stop_ids == [2]
    assert sampling == SamplingConfig(max_new_tokens=7)


def samples_of(data, folder, num_prompts):
    return Samples(
        folder / "samples.jsonl", Dataset(str(data), read_manifest(data)), num_prompts=num_prompts,
        tokenizer=data / "tokenizer", generator=None, decoder_config=None, sampling=SamplingConfig(max_new_tokens=7),
    )  # fmt: skip


def test_without_prompts_nothing_is_written(arguments, tmp_path):
    data = Path(arguments[0].removeprefix("--data="))
    samples = samples_of(data, tmp_path, num_prompts=0)
    samples.drop_after(0)
    samples.write(0, {})
    assert not list(tmp_path.iterdir())


def test_first_and_last_answers_stand_side_by_side(tmp_path):
    lines = [
        {"step": step, "prompt": prompt, "answer": f" {prompt}{step}", "chosen": "x"}
        for step in (0, 5, 10)
        for prompt in ("a\nb", "c")
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert side_by_side(tmp_path / "samples.jsonl") == [
        ["prompt   a\n         b", "step 0   'a\\nb0'", "step 10  'a\\nb10'"],
        ["prompt   c", "step 0   'c0'", "step 10  'c10'"],
    ]
    assert side_by_side(tmp_path / "elsewhere") == []
