"""Answers of several turns and prompts that open one, from a file of rows to what every command and the loader show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.layout import CHOSEN, PROMPT, UNSCORED_CHOSEN
from oddsmill.schemas.manifest import read_manifest
from oddsmill.train.data.loader import train_batches
from tests.datasets import edit_manifest

CASES = Path(__file__).parents[1] / "cases"
# Like the templates of today: a last turn opens with an empty reasoning, and a tool speaks as the user.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ 'user' if m.role == 'tool' else m.role }}]"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<{{ call.function.name }} {{ call.function.arguments | tojson }}>{% endfor %}"
    "</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
OPEN_TURN = "<s>[user]Name a tree.</s>[assistant]<think></think>Sure, one is"
QUESTION = "<s>[user]Weather in Oslo?</s>[assistant]"
CALL, BETWEEN, REPORT = '<w {"city": "Oslo"}></s>', "[user]4 C</s>[assistant]", "<think></think>It is 4 C.</s>"


@pytest.fixture
def result(run: Callable) -> Any:
    paths = CASES / "04" / "traj.jsonl", CASES / "27" / "prefill.jsonl"
    return run("out", *paths, max_length=120, shuffle=False, eval_share=0.0, chat_template=TEMPLATE)


def test_both_cases_are_pairs_and_every_command_shows_what_has_no_loss(
    result: Any, run: Callable, command: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    tokenizer = load_tokenizer(result.folder / "tokenizer")
    trajectory, opened = result.pairs(capsys)
    texts = {side: tokenizer.decode(trajectory[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")}
    assert texts == {"prompt": QUESTION, "chosen": CALL + BETWEEN + REPORT, "rejected": "<think></think>No idea.</s>"}
    ((first, end),) = trajectory["unscored_chosen"]
    assert tokenizer.decode(trajectory["chosen_ids"][first:end]) == BETWEEN
    assert trajectory["unscored_rejected"] == []
    texts = [tokenizer.decode(opened[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")]
    assert texts == [OPEN_TURN, " oak.</s>", " rock.</s>"]
    assert "unscored_chosen" not in opened

    manifest = read_manifest(result.folder)
    assert (manifest.schema_version, manifest.ledger.drops) == (
        2,
        {},
    )  # a trainer that knows version 1 alone refuses it
    assert manifest.counts["eos_inside_answer"] == 0  # those that end turns are where they should be
    assert manifest.splits["train"].unscored == {"chosen": end - first, "rejected": 0}
    assert manifest.settings["answer_loss"] == "assistant"
    assert any("; without loss: " in line for line in result.lines)
    assert command("verify", result.folder)[0] == 0
    shown = command("inspect", result.folder)[1]
    assert f"chosen {len(trajectory['chosen_ids'])}, {end - first} without loss: {CALL}" in shown
    assert command("report", result.folder)[0] == 0
    page = (result.folder / "report.html").read_text()
    assert page.count(", without loss") == end - first and f", {end - first} without loss" in page
    settings = (f"--tokenizer={tokenizer.folder}", "--max_length=120", f"--chat_template={TEMPLATE}")
    explained = command("explain", *settings, f"--source.path={CASES}/04/traj.jsonl", "--row=0")[1]
    assert f"\nno loss    chosen, tokens {first} to {end - 1}: {BETWEEN!r}\n" in explained


def test_the_loader_gives_unscored_tokens_their_branch_and_a_recount_finds_others(result: Any, command: Callable):
    manifest, tokenizer = read_manifest(result.folder), load_tokenizer(result.folder / "tokenizer")
    batch = next(train_batches(str(result.folder), manifest, rows_per_step=1, shuffle=False, seed=0))

    def text(branch: int) -> str:
        return tokenizer.decode(batch["labels"][(batch["branch"] == branch) & (batch["segment"] == 1)].tolist())

    assert (text(UNSCORED_CHOSEN), text(CHOSEN)) == (BETWEEN, CALL + REPORT)
    assert text(PROMPT) == QUESTION.removeprefix("<s>")
    assert np.isin(batch["branch"][batch["segment"] == 2], [1, 2, 3]).all()

    def count_one_more(fields: dict) -> None:
        fields["splits"]["train"]["unscored"]["chosen"] += 1

    edit_manifest(result.folder, count_one_more)
    assert "recounting gives other unscored than the manifest" in command("verify", result.folder)[2]
