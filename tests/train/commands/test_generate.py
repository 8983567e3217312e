"""`oddsmill train generate` from a model's folder to lines of JSON, and what it refuses."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import tokenizers

from oddsmill.train.__main__ import main
from oddsmill.train.weights.huggingface import save_params
from tests.train.decoders import TINY, decoder_config, split_decoder
from tests.train.fake_devices import fake_devices

ROOT = Path(__file__).parents[3]
CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<pad>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ mood }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(make_tokenizer, tmp_path_factory):
    """A folder with random weights, a tokenizer with BOS and EOS, and a template that ends turns with <pad>."""
    folder = make_tokenizer(tmp_path_factory.mktemp("model"), chat_template=CHATML)
    vocab_size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = {"vocab_size": vocab_size, "initializer_range": 0.8, "eos_token_id": 5}
    (folder / "config.json").write_text(json.dumps(TINY | config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    _, params = split_decoder(decoder_config(**config))
    save_params(params, folder, num_layers=TINY["num_hidden_layers"])
    return folder


def generate(*arguments):
    """Exit code, standard output and standard error of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["generate", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


ROWS = [
    {"prompt": "Tell me a story about a cat."},
    {"messages": [{"role": "user", "content": "How do I bake bread?"}], "chosen": "is not looked at"},
    {"prompt": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"mood": "gladly "}},
]


def test_a_file_of_prompts_is_answered_in_order(model, write_rows, tmp_path):
    prompts = write_rows("prompts.jsonl", [*ROWS, b""])
    out = tmp_path / "answers.jsonl"
    settings = (f"--model.path={model}", "--max_new_tokens=6", "--batch_size=2")
    assert generate(*settings, f"--prompts={prompts}", f"--out={out}", "--chat_template_kwargs={mood: sadly}") == (
        0,
        "",
        "",
    )
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["prompt"] for answer in answers] == [
        "Tell me a story about a cat.",
        "<s><|user|>How do I bake bread?<pad><|assistant|>sadly",
        "<s><|user|>Hi<pad><|assistant|>gladly ",
    ]
    assert [(answer["row"], answer["sample"]) for answer in answers] == [(0, 0), (1, 0), (2, 0)]
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    for answer in answers:
        stopped = answer["finish_reason"] == "stop"
        assert stopped or (answer["finish_reason"] == "length" and len(answer["ids"]) == 6)
        # EOS of the tokenizer, its template's end of turn, config.json's and generation_config.json's.
        assert [token in (2, 0, 5, 7, 9) for token in answer["ids"]] == [False] * (len(answer["ids"]) - stopped) + [
            True
        ] * stopped
        spoken = answer["ids"][:-1] if stopped else answer["ids"]
        assert answer["answer"] == tokenizer.decode(spoken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "prompts.jsonl"]

    # On a mesh of four devices the answers are the same; several processes' worth of noise stays off standard output.
    command = [sys.executable, "-m", "oddsmill.train", "generate", *settings, f"--prompts={prompts}"]
    command += ["--chat_template_kwargs={mood: sadly}", "--mesh.data=2", "--mesh.fsdp=2"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=fake_devices(4))
    assert finished.returncode == 0, finished.stderr
    assert [json.loads(line) for line in finished.stdout.splitlines()] == answers


def test_a_text_may_be_a_users_message_and_have_several_answers(model):
    drawn = ("--do_sample=true", "--num_return_sequences=3", "--max_new_tokens=4", "--temperature=2.0", "--seed=3")
    dtypes = ("--param_dtype=bfloat16", "--compute_dtype=bfloat16")
    code, out, _ = generate(f"--model.path={model}", "--prompt=Hi", "--chat=true", *drawn, *dtypes)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(answer["row"], answer["sample"]) for answer in answers] == [(0, 0), (0, 1), (0, 2)]
    assert {answer["prompt"] for answer in answers} == {"<s><|user|>Hi<pad><|assistant|>"}
    assert len({tuple(answer["ids"]) for answer in answers}) == 3


USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{", "prompts.jsonl:1: not a row of JSON"),
        (b'{"prompt": "\xff"}', "prompts.jsonl:1: not a row of JSON"),
        ([1], "prompts.jsonl:1: list, a JSON object is needed"),
        ({"question": "q"}, "this one holds none of them, only question"),
        ({"prompt": "q", "messages": [USER]}, "this one holds several"),
        ({"prompt": 5}, "prompt is int, not a list of messages"),
        ({"messages": "q"}, "messages is str, not a list of messages"),
        ({"messages": []}, "there is no message"),
        ({"messages": ["q"]}, "a message is str, not an object of role and content"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, "the last message is the assistant's"),
        ({"messages": [USER], "tools": "{"}, "tools: broken JSON"),
        ({"messages": [{"role": "pupil", "content": "q"}]}, """e.g. --roles='{"pupil": "assistant"}'"""),
        ({"messages": [{"role": "user", "content": 5}]}, "prompts.jsonl:1: the content of a message is int"),
        ({"messages": [USER], "chat_template_kwargs": [1]}, "chat_template_kwargs is list"),
        ({"prompt": "\ud800"}, "a lone surrogate"),
    ],
)
def test_bad_rows_are_refused_by_file_and_row(model, write_rows, row, message):
    path = write_rows("prompts.jsonl", [{"prompt": "fine"}, row])
    code, out, err = generate(f"--model.path={model}", f"--prompts={path}")
    assert (code, out) == (2, "")
    assert err.startswith("refused: ") and message in err and "prompts.jsonl:1" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --prompts (a file) or --prompt"),
        (["--prompt=q", "--prompts=x"], "give either --prompts (a file) or --prompt"),
        (["--prompts=nowhere"], "--prompts=nowhere: cannot be read"),
        (["--prompt=q", "--temperature=0.5"], "--temperature=0.5: has no effect without --do_sample=true"),
        (["--prompt=q", "--batch_size=0"], "--batch_size=0: must be positive"),
        (["--prompt=q", "--chat_template_kwargs={a: 1}"], "has no effect: the prompts are texts"),
        (["--prompt=q", "--chat=true", "--chat_date=2026-01-01"], "has no effect: the chat template writes no date"),
        (["--prompt=q", "--chat=true", "--chat_template_kwargs={mode: 1}"], "the chat template does not read 'mode'"),
        (["--prompt=q", "--chat=true", "--chat_date=today"], "--chat_date=today: must be a day such as 2026-01-31"),
        (["--prompt=q", "--temprature=1"], "did you mean --temperature?"),
        (["--prompt=q", "--out=nowhere/out.jsonl"], "--out=nowhere/out.jsonl: cannot be written"),
        (["--prompt=q", "--out=."], "--out=.: is a folder; give a file"),
        (["--prompt=q", "--mesh.fsdp=3"], "--mesh.fsdp=3"),
    ],
)
def test_bad_settings_are_refused(model, arguments, message):
    code, out, err = generate(f"--model.path={model}", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("refused: ") and message in err and len(err.splitlines()) == 1


def test_models_that_cannot_answer_are_refused(model, tmp_path, write_rows):
    copy = tmp_path / "model"
    copy.mkdir()
    config = json.loads((model / "config.json").read_text())
    small = config | {"vocab_size": 50}
    (copy / "config.json").write_text(json.dumps(small))
    assert "has no tokenizer.json" in generate(f"--model.path={copy}", "--prompt=q")[2]
    (copy / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    assert "is not in the model's vocabulary of 50" in generate(f"--model.path={copy}", "--prompt=Hello")[2]
    assert "--prompt: the prompt has no token" in generate(f"--model.path={copy}", "--prompt=")[2]
    messages = write_rows("messages", [ROWS[1]])
    assert "has no chat template" in generate(f"--model.path={copy}", f"--prompts={messages}")[2]
    assert (
        "--chat=false takes texts alone"
        in generate(f"--model.path={model}", f"--prompts={messages}", "--chat=false")[2]
    )
    (copy / "config.json").write_text(json.dumps(small | {"eos_token_id": "</s>"}))
    assert 'eos_token_id="</s>": must be' in generate(f"--model.path={copy}", "--prompt=!")[2]
    assert "there is no prompt in it" in generate(f"--model.path={model}", f"--prompts={write_rows('none', [b''])}")[2]
    code, _, err = generate("--model.config=x", "--prompt=q")
    assert code == 2 and "--model.path=None: give either --model.path" in err


def test_what_is_the_runs_own_is_not_given(tmp_path):
    for arguments, message in (
        (["--prompt=q"], "give either --model.path"),
        ([f"--run_dir={tmp_path}", "--model.path=m", "--prompt=q"], "give either --model.path"),
        (["--model.path=m", "--checkpoint=2", "--prompt=q"], "--checkpoint=2: has no effect without --run_dir"),
        ([f"--run_dir={tmp_path}", "--prompt=q", "--param_dtype=bfloat16"], "--param_dtype=bfloat16: has no effect"),
        ([f"--run_dir={tmp_path}", "--prompt=q"], "not the folder of a run"),
    ):
        code, out, err = generate(*arguments)
        assert (code, out) == (2, "") and message in err, err
