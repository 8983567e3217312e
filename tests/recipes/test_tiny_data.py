"""The data of the tiny recipe: it can be rebuilt, and only quality tells chosen from rejected."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

tokenizers = pytest.importorskip("tokenizers")

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "tiny"
ANSWERS = ("chosen", "rejected")

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return the committed rows."""
    return [json.loads(line) for line in (RECIPE / "pairs.jsonl").read_text("ascii").splitlines()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return the committed tokenizer."""
    loaded: Tokenizer = tokenizers.Tokenizer.from_file(str(RECIPE / "tokenizer" / "tokenizer.json"))
    return loaded


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Import make_data.py from its path: a recipe folder is not a package."""
    name = "tiny_recipe_make_data"
    spec = importlib.util.spec_from_file_location(name, RECIPE / "make_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up by name
    spec.loader.exec_module(module)
    return module


def shorter_answer_wins(lengths: Iterable[tuple[int, int]]) -> float:
    """Return how often the shorter of (chosen, rejected) is the chosen one; a tie counts half."""
    scores = [1.0 if left < right else 0.5 if left == right else 0.0 for left, right in lengths]
    return sum(scores) / len(scores)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_generator_writes_the_committed_files(hash_seed: str) -> None:
    """The order of Python's string hashes, which changes from run to run, plays no part."""
    result = subprocess.run(
        [sys.executable, "-B", str(RECIPE / "make_data.py"), "--check"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_check_notices_a_changed_and_a_missing_file(generator: ModuleType, tmp_path: Path) -> None:
    check = ["--check", "--output", str(tmp_path)]
    assert generator.main(check) == 1
    generator.main(["--output", str(tmp_path)])
    assert generator.main(check) == 0
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(pairs.read_bytes().replace(b"Paris", b"Patis", 1))
    assert generator.main(check) == 1


def test_another_seed_gives_other_pairs(generator: ModuleType, rows: list[Row]) -> None:
    other = generator.pairs_text(generator.build_pairs(generator.SEED + 1)).splitlines()
    assert [json.loads(line) for line in other] != rows


def test_size_and_variety(rows: list[Row]) -> None:
    assert 2000 <= len(rows) <= 4000
    assert len({row["prompt"] for row in rows}) >= 2500
    by_task: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        by_task[row["task"]] += 1
    assert len(by_task) >= 12
    assert min(by_task.values()) >= 150


def test_readme_states_the_true_size(rows: list[Row]) -> None:
    readme = (RECIPE / "README.md").read_text("ascii")
    assert f"{len(rows):,} pairs" in readme
    assert f"{len({row['prompt'] for row in rows}):,} distinct prompts" in readme


def test_rows_have_the_documented_form(rows: list[Row]) -> None:
    for row in rows:
        assert list(row) == ["prompt", "chosen", "rejected", "task"]
        assert row["prompt"].startswith("Question: ") and row["prompt"].endswith("\nAnswer:")
        assert len(row["prompt"].split()) <= 25
        for key in ANSWERS:
            assert row[key][0] == " " and row[key].strip() == row[key][1:]
            assert 1 <= len(row[key].split()) <= 20


def test_no_row_comes_twice_and_no_pair_is_a_tie(rows: list[Row]) -> None:
    keys = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_no_prompt_rejects_what_it_accepts_elsewhere(rows: list[Row]) -> None:
    accepted: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        accepted[row["prompt"]].add(row["chosen"])
    assert all(row["rejected"] not in accepted[row["prompt"]] for row in rows)
    assert all(len(answers) == 1 for answers in accepted.values())


@pytest.mark.parametrize("unit", ["characters", "words", "tokens"])
def test_length_does_not_tell_which_answer_is_better(rows: list[Row], tokenizer: Tokenizer, unit: str) -> None:
    def length(text: str) -> int:
        if unit == "characters":
            return len(text)
        if unit == "words":
            return len(text.split())
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    by_task: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append((length(row["chosen"]), length(row["rejected"])))
    every = [lengths for task in by_task.values() for lengths in task]
    assert 0.4 <= shorter_answer_wins(every) <= 0.6
    outside = {
        task: shorter_answer_wins(lengths)
        for task, lengths in by_task.items()
        if not 0.3 <= shorter_answer_wins(lengths) <= 0.7
    }
    assert not outside
    mean_chosen, mean_rejected = (sum(column) / len(every) for column in zip(*every, strict=True))
    assert mean_rejected == pytest.approx(mean_chosen, rel=0.05)


def test_many_chosen_answers_are_rejected_elsewhere(rows: list[Row]) -> None:
    """Without the prompt, an answer alone often does not say whether it is the better one."""
    chosen = {row["chosen"] for row in rows}
    rejected = {row["rejected"] for row in rows}
    assert len(chosen & rejected) / len(chosen) > 0.4


def test_answers_of_held_out_prompts_are_taught_by_other_prompts(rows: list[Row]) -> None:
    """A split by a hash of the prompt leaves most held-out facts in the training part."""

    def is_held_out(row: Row) -> bool:
        return hashlib.sha256(row["prompt"].encode()).digest()[0] % 10 == 0

    held_out = [row for row in rows if is_held_out(row)]
    taught = {row["chosen"] for row in rows if not is_held_out(row)}
    assert len(held_out) > 200
    assert sum(row["chosen"] in taught for row in held_out) / len(held_out) > 0.9


def test_right_answers_are_right(rows: list[Row]) -> None:
    """Work the computable tasks out once more, from the text of the prompt alone."""
    worked_out = 0
    for row in rows:
        words = row["prompt"].removesuffix("\nAnswer:").split()
        numbers = [int(word.strip(",:.?")) for word in words if word.strip(",:.?").isdigit()]
        if row["task"] == "arithmetic":
            sign = 1 if "plus" in words else -1
            expected = f"{numbers[0] + sign * numbers[1]}."
            assert row["chosen"].split()[-1] == expected
        elif row["task"] == "comparison":
            best = max(numbers) if "larger" in row["prompt"] else min(numbers)
            assert row["chosen"].split()[0] == str(best)
        elif row["task"] == "sorting":
            falling = "large to small" in row["prompt"]
            expected = ", ".join(map(str, sorted(numbers, reverse=falling)))
            assert row["chosen"] == f" {expected}."
        else:
            continue
        worked_out += 1
    assert worked_out > 500


def test_tokenization_round_trips(rows: list[Row], tokenizer: Tokenizer) -> None:
    unseen = "Z\u00fcrich, 12 \u00b0C\n\ttabs and <angle> brackets"
    for text in [unseen, *(row["prompt"] + row[key] for row in rows for key in ANSWERS)]:
        ids = tokenizer.encode(text).ids
        assert ids[0] == tokenizer.token_to_id("<s>")
        assert tokenizer.decode(ids) == text


def test_the_encodings_of_a_row_share_the_prompt(rows: list[Row], tokenizer: Tokenizer) -> None:
    """The boundary falls right behind the prompt, and no answer is empty."""
    for row in rows:
        prompt = tokenizer.encode(row["prompt"]).ids
        for key in ANSWERS:
            whole = tokenizer.encode(row["prompt"] + row[key]).ids
            assert whole[: len(prompt)] == prompt
            answer = tokenizer.encode(row[key], add_special_tokens=False).ids
            assert whole[len(prompt) :] == answer != []


def test_model_and_tokenizer_fit(tokenizer: Tokenizer, rows: list[Row]) -> None:
    model = json.loads((RECIPE / "config.json").read_text("ascii"))
    settings = json.loads((RECIPE / "tokenizer" / "tokenizer_config.json").read_text("ascii"))
    assert model["vocab_size"] == tokenizer.get_vocab_size()
    for name in ("bos", "eos", "pad"):
        assert model[f"{name}_token_id"] == tokenizer.token_to_id(settings[f"{name}_token"])
    assert model["hidden_size"] == model["num_attention_heads"] * model["head_dim"]
    assert model["num_attention_heads"] % model["num_key_value_heads"] == 0
    longest = max(sum(len(tokenizer.encode(row[key]).ids) for key in ("prompt", *ANSWERS)) for row in rows)
    assert longest < settings["model_max_length"] == model["max_position_embeddings"]


def test_chat_template_writes_the_form_of_the_rows(rows: list[Row]) -> None:
    jinja2 = pytest.importorskip("jinja2")
    settings = json.loads((RECIPE / "tokenizer" / "tokenizer_config.json").read_text("ascii"))
    template = jinja2.Template(settings["chat_template"], keep_trailing_newline=True)
    row = rows[0]
    content = row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:")
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": row["chosen"].strip()},
    ]
    text = template.render(messages=messages, bos_token="<s>", eos_token="</s>")
    assert text == f"<s>{row['prompt']}{row['chosen']}</s>"
