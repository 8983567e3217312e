"""`plan` and `explain` on dialogues, tools and ranked rows: what they say is what a run does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline.commands.plan import measure, prepare, scaled
from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.input.sampling import sample_rows
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer

TEMPLATE = (
    "{% if tools %}tools{% for tool in tools %} {{ tool.name }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SIDES = ("prompt", "chosen", "rejected")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def dialogues() -> list[dict[str, Any]]:
    """Dialogues of 1 to 9 turns, some with a system turn, tools or a last turn that is too long alone."""
    rows = []
    for number in range(36):
        prompt = [turn("system", f"rule {number}")] if number % 2 else []
        for past in range(number % 5):
            prompt += [turn("user", f"question {past} " * 3), turn("assistant", f"answer {past} of {number}")]
        prompt.append(turn("user", f"last {number} " * (40 if number % 9 == 8 else 2)))
        answers = {side: [turn("assistant", f"{side} " * (1 + number % 7 * 3))] for side in SIDES[1:]}
        tools = {"tools": [{"name": f"tool{number}"}]} if number % 4 == 0 else {}
        rows.append({"prompt": prompt} | answers | tools)
    return [
        *rows,
        {"prompt": [turn("user", "a")], "chosen": [turn("assistant", "b")], "rejected": [turn("assistant", "c")]},
        {"prompt": [turn("user", "no answer")]},
        {"prompt": [turn("user", "same")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "a")]},
        {"prompt": [turn("ghost", "who?")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]},
    ]


RANKED = [
    {"prompt": f"Question {n}: ", "completions": ["a" * (n + 1), "b c " * (n + 2), "d"], "scores": [1, n % 4, 2]}
    for n in range(24)
]


@pytest.fixture
def settings(tokenizer_folder: Path) -> dict[str, Any]:
    return {"tokenizer": str(tokenizer_folder), "max_length": 64, "max_prompt_length": 32, "eval_share": 0.0}


@pytest.mark.parametrize("max_length", [44, 64])
@pytest.mark.parametrize(
    ("rows", "changes", "source"),
    [
        (dialogues(), {"chat_template": TEMPLATE}, {}),
        (dialogues(), {"chat_template": TEMPLATE, "overlong": "drop"}, {}),
        (dialogues(), {"chat_template": TEMPLATE, "max_completion_length": 9, "truncation_side": "keep_start"}, {}),
        (RANKED, {}, {"ranked_pairs": "all"}),
        (RANKED, {"row_length": 70}, {"ranked_pairs": "best_worst", "margin": 1.0}),
    ],
)
def test_of_a_whole_input_the_plan_is_the_ledger_of_a_run(
    run: Callable,
    write_rows: Callable,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    max_length: int,
    rows: list[Any],
    changes: dict[str, Any],
    source: dict[str, Any],
):
    path = write_rows("rows.jsonl", rows)
    base = PreprocessConfig(source=SourceConfig(path=str(path), **source), output="x", **settings | changes)
    resolved = resolve_run(base)
    config = scaled(base, max_length)
    tokenizer = load_tokenizer(base.tokenizer, chat_template=base.chat_template)
    sample = sample_rows(resolved.inputs, len(rows))
    assert sample.total_rows == len(sample.rows) == len(rows)
    pairs, drops, _ = prepare(sample.rows, tokenizer, resolved)
    budget = measure(pairs, tokenizer, resolved.rules, config)

    names = ("max_length", "max_prompt_length", "row_length")
    lengths = {name: getattr(config, name) for name in names}
    result = run("out", path, source=source, max_drop_share=1.0, **settings | changes | lengths)
    ledger, train = result.manifest["ledger"], result.manifest["splits"]["train"]
    cut = sum(bool(pair["truncated"]) for pair in result.pairs(capsys))
    by_length = {name: count for name, count in ledger["drops"].items() if name not in drops}
    assert set(by_length) <= {"prompt_too_long", "answer_too_long", "pair_too_long"}
    assert {name: count for name, count in ledger["drops"].items() if name in drops} == drops
    assert (budget.whole, budget.cut) == (ledger["pairs_out"] - cut, cut)
    assert budget.dropped == sum(by_length.values())
    assert budget.tokens == sum(train["tokens"].values())
    assert budget.whole + budget.cut + budget.dropped + drops.total() == ledger["rows_in"] + ledger["extra_pairs"]


@pytest.fixture
def explain(command: Callable, settings: dict[str, Any]) -> Callable[..., str]:
    def call(path: Path, row: int, *arguments: str) -> str:
        flags = [f"--{name}={value}" for name, value in settings.items()]
        code, out, err = command("explain", f"--source.path={path}", *flags, *arguments, f"--row={row}")
        assert (code, err) == (0, "")
        return out

    return call


def test_every_dialogue_is_explained_as_a_run_stores_or_drops_it(
    run: Callable, write_rows: Callable, settings: dict[str, Any], explain: Callable, capsys: pytest.CaptureFixture[str]
):
    rows = dialogues()
    path = write_rows("rows.jsonl", rows)
    result = run("out", path, chat_template=TEMPLATE, max_drop_share=1.0, **settings)
    stored = {int(pair["source"].rpartition(":")[2]): pair for pair in result.pairs(capsys)}
    rejects = {reject["row"]: reject for reject in result.rejects}
    assert rejects.keys() | stored.keys() == set(range(len(rows)))
    shortened = {"turns_dropped": 0, "turn_cut": 0}
    for number in range(len(rows)):
        out = explain(path, number, f"--chat_template={TEMPLATE}")
        if number in rejects:
            reject = rejects[number]
            assert re.search(rf"\ndropped .*: {reject['reason']} \(.*\): {re.escape(reject['detail'])}\n", out)
            assert "\nid " not in out
            continue
        pair = stored[number]
        assert f"\nid         {pair['id']}\n" in out
        assert f"\ncut        {', '.join(pair['truncated']) or 'nothing'}\n" in out
        assert "rendered by the chat template" in out
        assert (f"tool{number}" in out.partition("rendered by")[2]) == ("tools" in rows[number])
        (last,) = re.findall(r"\n3 answers to what the prompt leaves +(.*)\n", out)
        assert list(map(int, last.split())) == [len(pair[f"{side}_ids"]) for side in SIDES]
        shortened["turns_dropped"] += "(whole oldest turns" in out
        shortened["turn_cut"] += "text of one turn)" in out
    assert shortened == {name: result.manifest["counts"][name] for name in shortened}
    assert all(shortened.values())


def test_each_pair_of_a_ranked_row_is_explained(
    run: Callable, write_rows: Callable, settings: dict[str, Any], explain: Callable, capsys: pytest.CaptureFixture[str]
):
    row = {"prompt": "Which? ", "completions": ["first", "second", "third"], "scores": [1, 3, 2]}
    path = write_rows("rows.jsonl", [row, {**row, "scores": [1, 1, 1]}])
    result = run("out", path, source={"ranked_pairs": "all"}, shuffle=False, **settings)
    pairs = result.pairs(capsys)
    out = explain(path, 0, "--source.ranked_pairs=all", "--shuffle=false")
    _, *parts = re.split(r"\npair \d of 3\n", out)
    assert sorted(re.findall(r"\nid +(\w+)\n", out)) == sorted(pair["id"] for pair in pairs)
    answers = [
        tuple(re.search(rf"\n{side} +'(\w+)'\n", part)[1] for side in SIDES[1:]) for part in map("\n{}".format, parts)
    ]
    assert sorted(answers) == [("second", "first"), ("second", "third"), ("third", "first")]
    assert ": tie (no answer is better than another): " in explain(path, 1, "--source.ranked_pairs=all")


def test_the_plan_of_dialogues_says_what_it_looked_at(
    command: Callable, write_rows: Callable, settings: dict[str, Any]
):
    flags = [f"--{name}={value}" for name, value in settings.items()]
    path = write_rows("rows.jsonl", dialogues())
    code, out, err = command("plan", f"--source.path={path}", *flags, f"--chat_template={TEMPLATE}")
    assert (code, err) == (0, "")
    assert "40 rows; 40 looked at, all of them" in out
    assert "format     messages (detected)" in out
    assert "37 pairs; dropped before the length rules: 1 bad_roles, 1 identical_answers, 1 missing_field" in out
