"""Formats, chat templates and compat through the whole pipeline."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.errors import Refused

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for number in range(count)
    ]


def test_messages_are_rendered_with_the_template_that_is_given(run: Callable, write_rows: Callable, capsys):
    source = write_rows("a.jsonl", [*chats(9), {"prompt": "q", "chosen": "a", "rejected": "b"}])
    result = run("out", source, chat_template=TEMPLATE, shuffle=False, eval_share=0.0)
    manifest = result.manifest
    assert manifest["settings"]["source"]["format"] == "messages"
    assert manifest["ledger"] == {"rows_in": 10, "pairs_out": 9, "drops": {"wrong_type": 1}, "extra_pairs": 0}
    assert manifest["tokenizer"]["chat_template_sha256"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert (result.folder / "tokenizer/chat_template.jinja").read_text() == TEMPLATE
    first, *_ = result.pairs(capsys)
    assert first["chosen_ids"][-1:] == first["rejected_ids"][-1:] == [2]
    again = run("out", source, chat_template=TEMPLATE, shuffle=False, eval_share=0.0)
    assert "nothing changed" in again.lines[-1]
    with pytest.raises(Refused, match=r"tokenizer: another chat_template\.jinja"):
        run("out", source, chat_template=TEMPLATE + " ", shuffle=False, eval_share=0.0)


def test_messages_without_a_template_are_refused_before_anything_is_written(
    command: Callable, write_rows: Callable, tokenizer_folder: Path, tmp_path: Path
):
    code, _, error = command(
        "run",
        f"--source.path={write_rows('a.jsonl', chats(3))}",
        f"--tokenizer={tokenizer_folder}",
        f"--output={tmp_path / 'out'}",
    )
    assert code == 2
    assert error.count("\n") == 1
    assert "give one by --chat_template=FILE.jinja" in error
    assert not (tmp_path / "out").exists()


def test_a_row_may_give_several_pairs_and_the_ledger_balances(run: Callable, write_rows: Callable, command: Callable):
    rows = [
        {"prompt": f"q {number}:", "completions": [" a", " b", " b", " c"], "scores": [1, 2, 2, 3 + number % 2]}
        for number in range(10)
    ]
    tie = {"prompt": "q", "completions": ["a", "b"], "scores": [1, 1]}
    path = write_rows("a.jsonl", [*rows, tie])
    result = run("out", path, source={"ranked_pairs": "all"})
    assert result.manifest["ledger"] == {"rows_in": 11, "pairs_out": 50, "drops": {"tie": 1}, "extra_pairs": 40}
    assert result.manifest["counts"]["exact_duplicates"] == 20  # b against a, and c against b, twice a row
    assert command("verify", result.folder)[0] == 0
    dropped = run("once", path, source={"ranked_pairs": "all"}, dedup="exact")
    assert dropped.manifest["ledger"]["drops"] == {"duplicate": 20, "tie": 1}


def test_a_function_of_the_user_runs_in_the_pipeline(
    run: Callable, write_rows: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_format.py").write_text(
        "def pair(row):\n    return (row['q'], row['good'], row['bad']) if row['good'] else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_format", raising=False)
    rows = [{"q": f"q {number}:", "good": " yes" * (number % 3), "bad": " no"} for number in range(9)]
    result = run("out", write_rows("a.jsonl", rows), source={"format": "own_format:pair"})
    assert result.manifest["ledger"]["drops"] == {"user_function": 3}
    assert result.manifest["settings"]["source"]["format"] == "own_format:pair"


def test_compat_trl_counts_the_pairs_whose_prompts_differ(run: Callable, write_rows: Callable, capsys):
    # A token joins the prompt's last letters with "ce", so that side's prompt ends a token earlier.
    row = {"prompt": "What is the capital of Fran", "chosen": "ce?", "rejected": " no"}
    result = run("out", write_rows("a.jsonl", [row]), compat="trl", eval_share=0.0)
    assert result.manifest["counts"]["prompts_differ"] == 1
    assert result.manifest["settings"]["compat"] == "trl"


REAL: dict[str, tuple[str, dict[str, Any], str, int, dict[str, int]]] = {
    "hh": (
        "hh-rlhf-harmless/test.rows0-1599.jsonl.gz",
        {},
        "transcript",
        1595,
        {"empty_answer": 4, "no_common_prompt": 1},
    ),
    "dpo_en": ("llamafactory-dpo-demo/dpo_en_demo.json.gz", {}, "sharegpt", 299, {}),
    "dpo_zh": ("llamafactory-dpo-demo/dpo_zh_demo.json.gz", {}, "sharegpt", 300, {}),
    "dpo_v1": (
        "llamafactory-dpo-demo/v1_dpo_demo.jsonl.gz",
        {"chosen": "chosen_messages", "rejected": "rejected_messages"},
        "messages",
        10,
        {},
    ),
    "orca": (
        "orca-dpo-messages/validation.rows0-199.jsonl.gz",
        {"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        "messages",
        200,
        {},
    ),
    "pandalm": (
        "pandalm-testset/testset-v1.json.gz",
        {
            "prompt": ["instruction", "input"],
            "completions": ["response1", "response2"],
            "votes": ["annotator1", "annotator2", "annotator3"],
        },
        "votes",
        836,
        {"empty_answer": 52, "tie": 105, "wrong_type": 6},
    ),
    "finegrained": (
        "finegrained-qa-feedback/dev_feedback.json.gz",
        {
            "prompt": ["question", "passages"],
            "completions": [f"prediction {number}" for number in (1, 2, 3, 4)],
            "preferences": "preference",
        },
        "ranked",
        488,
        {"tie": 12},
    ),
    "advparaphrase": ("advparaphrase-dpo/dpo_train.rows0-399.jsonl.gz", {}, "triple", 400, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_dataset_runs_and_is_accounted_for(shared: Path, run: Callable, name: str):
    file, fields, format_name, pairs, drops = REAL[name]
    result = run(
        "out",
        shared / "data" / file,
        source={"fields": fields},
        tokenizer=str(shared / "data/tokenizers/minimind-chatml"),
        max_length=1024,
        max_prompt_length=512,
    )
    assert result.manifest["settings"]["source"]["format"] == format_name
    ledger = result.manifest["ledger"]
    assert (ledger["pairs_out"], ledger["drops"]) == (pairs, drops)


def test_unpaired_real_data_is_refused(shared: Path, run: Callable):
    with pytest.raises(Refused, match="the rows are unpaired"):
        run("out", shared / "data/llamafactory-kto-demo/kto_en_demo.json.gz")
