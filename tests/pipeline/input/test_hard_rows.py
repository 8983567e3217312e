"""Rows that broke some other tool: what becomes of each here. One test a kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, Origin

CHAT = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
H, A = "\n\nHuman:", "\n\nAssistant:"
USER = {"role": "user", "content": "q"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
FORMATS = {str: "triple", list: "messages"}


@pytest.fixture(scope="module")
def make(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    def load(**config: Any) -> Tokenizer:
        folder = tmp_path_factory.mktemp("tokenizer")
        return load_tokenizer(make_tokenizer(folder, **{"chat_template": CHAT} | config))

    return load


@pytest.fixture(scope="module")
def tokenizer(make: Callable[..., Tokenizer]) -> Tokenizer:
    return make()


def outcome(tokenizer: Tokenizer, row: dict[str, Any], format_name: str | None = None, **settings: Any) -> Any:
    """The pair's prompt and answers as text, or the reason why there is none."""
    ids = tokenized(tokenizer, row, format_name, **settings)
    if isinstance(ids, Dropped):
        return str(ids.reason)
    return tuple(tokenizer.decode(side) for side in (ids.prompt, ids.chosen, ids.rejected))


def tokenized(
    tokenizer: Tokenizer, row: dict[str, Any], format_name: str | None = None, **settings: Any
) -> PairIds | Dropped:
    source = SourceConfig(path="a", format=format_name or FORMATS.get(type(row.get("chosen")), "triple"))
    config = PreprocessConfig(source=source, tokenizer="t", output="o", **settings)
    try:
        (pair,) = parse_row(RawRow(Origin(0, 0), row), source=source)
    except Dropped as dropped:
        return dropped
    (ids,) = tokenize_batch([pair], tokenizer, OURS, config)
    return ids


def row(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_01_equal_answers_are_dropped(tokenizer: Tokenizer):
    assert outcome(tokenizer, row("p", "c", "c")) == "identical_answers"
    assert outcome(tokenizer, row([USER], [YES], [YES])) == "identical_answers"


def test_02_an_answer_may_begin_with_the_other(tokenizer: Tokenizer):
    assert outcome(tokenizer, row("p:", " One two", " One two three")) == (
        "<s>p:",
        " One two</s>",
        " One two three</s>",
    )


def test_03_answers_may_differ_at_once_and_end_in_a_space(tokenizer: Tokenizer):
    assert outcome(tokenizer, row("p:", "Abc ", "Xbc")) == ("<s>p:", "Abc </s>", "Xbc</s>")


def test_04_empty_and_blank_answers_are_dropped(tokenizer: Tokenizer):
    for blank in ("", " \n\t"):
        assert outcome(tokenizer, row("p", blank, "r")) == "empty_answer"
        assert outcome(tokenizer, row("p", "c", blank)) == "empty_answer"
        assert outcome(tokenizer, row([USER], [YES | {"content": blank}], [NO])) == "empty_answer"


def test_05_what_both_answers_begin_with_stays_in_them(tokenizer: Tokenizer):
    paris, prague = "The capital is Paris", "The capital is Prague"
    assert outcome(tokenizer, row("p:", paris, prague)) == ("<s>p:", paris + "</s>", prague + "</s>")
    whole = {"chosen": f"{H} q{A} {paris}", "rejected": f"{H} q{A} {prague}"}
    assert outcome(tokenizer, whole, "transcript") == (f"<s>{H} q{A}", f" {paris}</s>", f" {prague}</s>")


def test_06_dialogues_that_differ_before_their_last_turn_are_dropped(tokenizer: Tokenizer):
    sides = {"chosen": f"{H} a{A} b{H} c{A} d", "rejected": f"{H} a{A} x{H} c{A} d"}
    assert outcome(tokenizer, sides, "transcript") == "no_common_prompt"


def test_07_a_budget_is_used_to_the_last_token(tokenizer: Tokenizer):
    prompt, answer = "?" * 20, "!" * 5  # a token each, and BOS and EOS
    pair = row(prompt, answer, "~")
    for max_length, expected in (
        (27, ("<s>" + prompt, answer + "</s>", "~</s>")),  # exactly
        (26, ("<s>" + prompt, answer, "~</s>")),  # but for EOS
        (25, ("<s>" + prompt, answer[:4], "~</s>")),
        (21, "prompt_too_long"),
    ):
        assert outcome(tokenizer, pair, max_length=max_length, max_prompt_length=21) == expected
    cut = outcome(tokenizer, pair, max_length=21, max_prompt_length=10)
    assert cut == ("<s>" + prompt[:14], answer + "</s>", "~</s>")


def test_08_a_long_answer_takes_nothing_from_a_short_one(tokenizer: Tokenizer):
    prompt, short, long = "?" * 20, "!" * 3, "~" * 300
    assert outcome(tokenizer, row(prompt, short, long), max_length=50, max_prompt_length=21) == (
        "<s>" + prompt,
        short + "</s>",
        "~" * 29,
    )


@pytest.mark.parametrize(
    ("config", "prompt", "eos"),
    [
        ({}, "<s>p:", "</s>"),
        ({"bos_token": None}, "p:", "</s>"),
        ({"pad_token": "</s>"}, "<s>p:", "</s>"),
        ({"pad_token": None}, "<s>p:", "</s>"),
        ({"unk_token": "<pad>"}, "<s>p:", "</s>"),
        ({"bos_token": "</s>"}, "p:", "</s>"),  # what the tokenizer begins texts with is another token
        ({"bos_token": None, "eos_token": "<pad>", "pad_token": None}, "p:", "<pad>"),  # its id is 0
    ],
)
def test_09_special_tokens_of_every_kind(make: Callable, config: dict[str, Any], prompt: str, eos: str):
    tokenizer = make(chat_template=None, **config)
    assert outcome(tokenizer, row("p:", " c", " r")) == (prompt, f" c{eos}", f" r{eos}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<s>" + CHAT, ("<s>[user]q</s>\n[assistant]", "yes</s>\n", "no</s>\n")),
        (CHAT.replace("\n", ""), ("[user]q</s>[assistant]", "yes</s>", "no</s>")),
        (
            CHAT.replace("[assistant]{%", "[assistant]<think>{%"),
            ("[user]q</s>\n", "[assistant]yes</s>\n", "[assistant]no</s>\n"),
        ),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT, "template_error"),
    ],
)
def test_10_templates_of_every_kind(make: Callable, template: str, expected: Any):
    prompt = [{"role": "system", "content": "s"}, USER] if expected == "template_error" else [USER]
    assert outcome(make(chat_template=template), row(prompt, [YES], [NO])) == expected


def test_11_a_prompt_beside_whole_dialogues_is_not_repeated(tokenizer: Tokenizer):
    expected = ("[user]q</s>\n[assistant]", "yes</s>\n", "no</s>\n")
    for prompt in ("q", [USER]):
        assert outcome(tokenizer, row(prompt, [USER, YES], [USER, NO])) == expected


def test_12_a_prompt_that_is_a_string_is_the_users_turn(tokenizer: Tokenizer):
    assert outcome(tokenizer, row("q", [YES], [NO])) == outcome(tokenizer, row([USER], [YES], [NO]))


def test_13_a_system_turn_in_one_side_only_is_no_common_prompt(tokenizer: Tokenizer):
    system = {"role": "system", "content": "s"}
    assert outcome(tokenizer, {"chosen": [system, USER, YES], "rejected": [USER, NO]}) == "no_common_prompt"


def test_14_dialogues_must_lead_to_an_answer(tokenizer: Tokenizer):
    assert outcome(tokenizer, {"chosen": [USER, YES, USER], "rejected": [USER, NO, USER]}) == "bad_roles"
    opened = row([USER, YES], [YES], [NO])  # the prompt begins the answer, which goes on
    assert outcome(tokenizer, opened) == ("[user]q</s>\n[assistant]yes", "yes</s>\n", "no</s>\n")
    tool = {"role": "tool", "content": "42"}
    with_tool = {"chosen": [USER, YES, tool, YES], "rejected": [USER, YES, tool, NO]}
    assert outcome(tokenizer, with_tool)[0] == "[user]q</s>\n[assistant]yes</s>\n[tool]42</s>\n[assistant]"


def test_15_texts_of_every_kind(tokenizer: Tokenizer):
    assert outcome(tokenizer, row("p:", "\ud800", "r")) == "unreadable"
    for text in ("a\x00b", "\u05e9\u05dc\u05d5\u05dd \u202eabc", "<|eot_id|>", "a<s>b"):
        assert outcome(tokenizer, row("p:", text, "r"))[1] == text + "</s>"
    spelt = tokenized(tokenizer, row("p:", "a</s>", "r"))
    assert isinstance(spelt, PairIds)
    assert spelt.chosen.count(tokenizer.eos_id) == 1
    megabyte = tokenized(tokenizer, row("p:", "word " * 200_000, "r"), max_length=64, max_prompt_length=32)
    assert isinstance(megabyte, PairIds)
    assert len(megabyte.prompt) + len(megabyte.chosen) == 64


def test_16_ties_and_swapped_scores_are_dropped(tokenizer: Tokenizer):
    scored = row("p:", "c", "r") | {"score_rejected": 1}
    assert outcome(tokenizer, scored | {"score_chosen": 1}) == "tie"
    assert outcome(tokenizer, scored | {"score_chosen": 0}) == "swapped_scores"
    assert outcome(tokenizer, scored | {"score_chosen": 2})[1:] == ("c</s>", "r</s>")


def test_17_duplicates_are_dropped_and_a_prompt_is_in_one_split(run: Callable, write_rows: Callable):
    rows = [row(f"p {n % 20}:", f"c {n}", f"r {n}") for n in range(60)]
    result = run("out", write_rows("a.jsonl", rows + rows[:7]), dedup="exact", eval_share=0.5)
    assert result.manifest["ledger"]["drops"] == {"duplicate": 7}
    assert result.manifest["ledger"]["pairs_out"] == 60
    pairs = [split["pairs"] for split in result.manifest["splits"].values()]
    assert all(count and count % 3 == 0 for count in pairs)  # the three pairs of a prompt are together


def test_18_fields_of_every_kind(tokenizer: Tokenizer):
    good = row("p:", "c", "r")
    assert outcome(tokenizer, {"prompt": "p", "chosen": "c"}) == "missing_field"
    assert outcome(tokenizer, good | {"rejected": None}) == "wrong_type"
    assert outcome(tokenizer, good | {"rejected": ["r"]}) == "wrong_type"
    assert outcome(tokenizer, good | {"more": 1, "id": None}) == outcome(tokenizer, good)
