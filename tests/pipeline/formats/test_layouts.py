"""Each line of docs/reference/datasets.md, read on an invented row of its layout."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.detection import resolve_source
from oddsmill.pipeline.formats.layouts import LAYOUTS, describe_source
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Dropped, Origin
from oddsmill.schemas.errors import Refused

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "datasets.md"
ASK, OAK, ROCK = "Name a tree.", "Oak.", "Rock."
TEXTS = (ASK, OAK, ROCK)
SYSTEM = "You are a botanist."


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


USER, YES, NO = turn("user", ASK), turn("assistant", OAK), turn("assistant", ROCK)
CHAT = ([USER], [YES], [NO])
CHAT_WITH_SYSTEM = ([turn("system", SYSTEM), USER], [YES], [NO])
SAID = [{"from": "human", "value": ASK}]


class Case(NamedTuple):
    """An invented row of a dataset, what it is read as, and what other rows of the dataset are dropped for."""

    row: dict[str, Any]
    read_as: str
    pair: tuple
    drops: dict[str, dict[str, Any]] | None = None


def answers(*values: tuple[str, float | None], text: str, value: str, **more: Any) -> list[dict[str, Any]]:
    return [{text: each, value: number} | more for each, number in values]


CASES = {
    "UltraFeedback": Case(
        {
            "source": "made up",
            "instruction": ASK,
            "models": ["a", "b", "c"],
            "completions": answers(
                (ROCK, 2.5), ("Elm?", 4), (OAK, 8), text="response", value="overall_score", model="a"
            ),
            "correct_answers": ["None"],
        },
        "ranked (detected: UltraFeedback: prompt=instruction, completions=completions.response, "
        "scores=completions.overall_score)",
        TEXTS,
        {
            "tie": {"completions": answers((ROCK, 3), (OAK, 3), text="response", value="overall_score")},
            "missing_field": {"completions": answers((ROCK, None), (OAK, 3), text="response", value="overall_score")},
        },
    ),
    "UltraFeedback binarized": Case(
        {
            "prompt": ASK,
            "prompt_id": "1",
            "chosen": [USER, YES],
            "rejected": [USER, NO],
            "messages": [USER, YES],
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        "messages (detected)",
        CHAT,
        {"tie": {"score_rejected": 8.0}},
    ),
    "UltraFeedback binarized by Argilla": Case(
        {
            "source": "s",
            "instruction": ASK,
            "chosen_response": OAK,
            "rejected_response": ROCK,
            "chosen_avg_rating": 4.5,
        },
        "triple (detected: chosen=chosen_response, rejected=rejected_response, prompt=instruction)",
        TEXTS,
    ),
    "Nectar": Case(
        {
            "prompt": f"\n\nHuman: {ASK} \n\nAssistant: ",
            "answers": answers((OAK, 1.0), ("Elm?", 2.0), (ROCK, 3.0), text="answer", value="rank", model="a"),
            "turns": 1,
        },
        "ranked (detected: Nectar: completions=answers.answer, ranks=answers.rank)",
        (f"\n\nHuman: {ASK} \n\nAssistant: ", OAK, ROCK),
    ),
    "StackExchange preferences": Case(
        {
            "qid": 1,
            "question": ASK,
            "answers": answers((ROCK, 0), (OAK, 5), text="text", value="pm_score", selected=False),
            "date": "2020/01/01",
        },
        "ranked (detected: StackExchange preferences: prompt=question, completions=answers.text, "
        "scores=answers.pm_score)",
        TEXTS,
        {"tie": {"answers": answers((ROCK, 1), (OAK, 1), text="text", value="pm_score")}},
    ),
    "StackExchange paired": Case(
        {"qid": 1, "question": ASK, "date": "d", "metadata": ["m"], "response_j": OAK, "response_k": ROCK},
        "triple (detected: StackExchange paired: prompt=question, chosen=response_j, rejected=response_k)",
        TEXTS,
    ),
    "HelpSteer 2, preference": Case(
        {"split": "train", "prompt": ASK, "response_1": ROCK, "response_2": OAK, "preference_strength": 2},
        "votes (detected: HelpSteer 2, preference: completions=response_1 + response_2, votes=preference_strength)",
        TEXTS,
        {"tie": {"preference_strength": 0}},
    ),
    "HelpSteer 3": Case(
        {
            "domain": "general",
            "context": [USER],
            "response1": OAK,
            "response2": ROCK,
            "overall_preference": -1,
            "individual_preference": [{"score": -1, "reasoning": "r"}],
        },
        "votes (detected: HelpSteer 3: prompt=context, completions=response1 + response2, votes=overall_preference)",
        CHAT,
        {"tie": {"overall_preference": 0}},
    ),
    "SHP": Case(
        {
            "post_id": "1",
            "history": ASK,
            "human_ref_A": ROCK,
            "human_ref_B": OAK,
            "labels": 0,
            "score_A": 5,
            "score_B": 9,
        },
        "votes (detected: SHP: prompt=history, completions=human_ref_A + human_ref_B, votes=labels)",
        TEXTS,
    ),
    "PKU-SafeRLHF": Case(
        {"prompt": ASK, "response_0": OAK, "response_1": ROCK, "better_response_id": 0, "safer_response_id": 1},
        "votes (detected: PKU-SafeRLHF: completions=response_0 + response_1, votes=better_response_id)",
        TEXTS,
    ),
    "Chatbot Arena": Case(
        {
            "question_id": "q",
            "model_a": "m",
            "model_b": "n",
            "winner": "model_b",
            "conversation_a": [USER, NO],
            "conversation_b": [USER, YES],
        },
        "votes (detected: Chatbot Arena: completions=conversation_a + conversation_b, votes=winner)",
        CHAT,
        {"tie": {"winner": "tie (bothbad)"}, "wrong_type": {"winner": "unknown"}},
    ),
    "Capybara and other distilabel mixes": Case(
        {
            "source": "s",
            "prompt": ASK,
            "chosen": [USER, YES],
            "rejected": [USER, NO],
            "rating_chosen": 5,
            "rating_rejected": 3,
            "chosen_model": "m",
        },
        "messages (detected)",
        CHAT,
    ),
    "distilabel": Case(
        {"system": SYSTEM, "input": ASK, "generations": ["Elm?", ROCK, OAK, None], "rating": [8.0, 3.0, 9.0, None]},
        "ranked (detected: distilabel: prompt=input, completions=generations, scores=rating)",
        (f"{SYSTEM}\n\n{ASK}", OAK, ROCK),
        {"missing_field": {"generations": [OAK, ROCK], "rating": [9.0, None]}},
    ),
    "distilabel, later versions": Case(
        {"instruction": ASK, "generations": [OAK, ROCK], "ratings": [5, 1], "rationales": ["r", "s"]},
        "ranked (detected: distilabel: prompt=instruction, completions=generations, scores=ratings)",
        TEXTS,
    ),
    "distilabel, pairs": Case(
        {"system": "", "input": ASK, "chosen": OAK, "rejected": ROCK, "generations": [OAK, ROCK], "rating": [9, 1]},
        "triple (detected: prompt=input)",
        TEXTS,
    ),
    "Tulu 3 preference mix": Case(
        {"id": "1", "source": "s", "prompt": ASK, "chosen": [USER, YES], "rejected": [USER, NO], "chosen_model": "m"},
        "messages (detected)",
        CHAT,
    ),
    "UltraInteract": Case(
        {
            "task": "t",
            "trajectory": [{"from": "user", "value": ASK}],
            "chosen": OAK,
            "rejected": ROCK,
            "parent_id": "0",
        },
        "sharegpt (detected: UltraInteract: prompt=trajectory)",
        CHAT,
    ),
    "ORPO mix 40k": Case(
        {"source": "s", "chosen": [USER, YES], "rejected": [USER, NO], "prompt": ASK, "question": ASK},
        "messages (detected)",
        CHAT,
    ),
    "Skywork reward preference": Case(
        {"chosen": [USER, YES], "rejected": [USER, NO], "source": "s"}, "messages (detected)", CHAT
    ),
    "HH": Case(
        {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {OAK}", "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {ROCK}"},
        "transcript (detected)",
        (f"\n\nHuman: {ASK}\n\nAssistant:", f" {OAK}", f" {ROCK}"),
        {"no_common_prompt": {"rejected": f"\n\nHuman: Why?\n\nAssistant: {ROCK}"}},
    ),
    "HH without the first blank line": Case(
        {"chosen": f"Human: {ASK}\n\nAssistant: {OAK}", "rejected": f"Human: {ASK}\n\nAssistant: {ROCK}"},
        "transcript (detected)",
        (f"Human: {ASK}\n\nAssistant:", f" {OAK}", f" {ROCK}"),
    ),
    "HH with the prompt apart": Case(
        {
            "prompt": f"\n\nHuman: {ASK}\n\nAssistant:",
            "response": f" {OAK}",
            "chosen": f" {OAK}",
            "rejected": f" {ROCK}",
        },
        "triple (detected)",
        (f"\n\nHuman: {ASK}\n\nAssistant:", f" {OAK}", f" {ROCK}"),
    ),
    "HH of trl-lib": Case({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, "messages (detected)", CHAT),
    "AlpacaFarm": Case(
        {"instruction": "Name a tree", "input": "of Norway.", "output_1": ROCK, "output_2": OAK, "preference": 2},
        "votes (detected: AlpacaFarm: prompt=instruction + input, completions=output_1 + output_2, votes=preference)",
        ("Name a tree\n\nof Norway.", OAK, ROCK),
    ),
    "PandaLM": Case(
        {
            "instruction": ASK,
            "input": "",
            "response1": OAK,
            "response2": ROCK,
            "annotator1": 1,
            "annotator2": 2,
            "annotator3": 1,
        },
        "votes (detected: PandaLM: prompt=instruction + input, completions=response1 + response2, "
        "votes=annotator1 + annotator2 + annotator3)",
        TEXTS,
        {"tie": {"annotator3": 0}},
    ),
    "summarize from feedback": Case(
        {
            "info": {"id": "1", "post": ASK},
            "summaries": [{"text": ROCK, "policy": "p"}, {"text": OAK, "policy": "q"}],
            "choice": 1,
        },
        "votes (detected: summarize from feedback: prompt=info.post, completions=summaries.text, votes=choice)",
        TEXTS,
    ),
    "WebGPT comparisons": Case(
        {"question": {"full_text": ASK}, "answer_0": OAK, "answer_1": ROCK, "score_0": 0.5, "score_1": -0.5},
        "ranked (detected: WebGPT comparisons: prompt=question.full_text, completions=answer_0 + answer_1, "
        "scores=score_0 + score_1)",
        TEXTS,
        {"tie": {"score_0": 0, "score_1": 0}},
    ),
    "OpenAI, Azure, Together": Case(
        {
            "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [YES],
            "non_preferred_output": [NO],
        },
        "messages (detected: OpenAI preference fine-tuning: prompt=input.messages, chosen=preferred_output, "
        "rejected=non_preferred_output, tools=input.tools)",
        CHAT,
    ),
    "LLaMA-Factory, alpaca": Case(
        {
            "instruction": ASK,
            "input": "",
            "chosen": OAK,
            "rejected": ROCK,
            "system": SYSTEM,
            "history": [["Hi", "Hello."]],
        },
        "triple (detected: prompt=instruction + input)",
        (f"{SYSTEM}\n\nHi\n\nHello.\n\n{ASK}", OAK, ROCK),
    ),
    "LLaMA-Factory, sharegpt": Case(
        {
            "conversations": SAID,
            "chosen": {"from": "gpt", "value": OAK},
            "rejected": {"from": "gpt", "value": ROCK},
            "system": SYSTEM,
            "tools": "",
            "images": [],
        },
        "sharegpt (detected)",
        CHAT_WITH_SYSTEM,
        {"unsupported_content": {"images": ["tree.png"]}},
    ),
    "LLaMA-Factory, answers in a list": Case(
        {"instruction": ASK, "input": None, "output": [OAK, ROCK]},
        "triple (detected: LLaMA-Factory, answers in a list: prompt=instruction + input, chosen=output.0, "
        "rejected=output.1)",
        TEXTS,
    ),
    "ms-swift": Case(
        {"messages": [turn("system", SYSTEM), USER, YES], "rejected_response": ROCK},
        "messages (detected: ms-swift: chosen=messages, rejected=rejected_response)",
        CHAT_WITH_SYSTEM,
    ),
    "ms-swift, rejected_messages": Case(
        {"messages": [USER, YES], "rejected_messages": [USER, NO]},
        "messages (detected: ms-swift: chosen=messages, rejected=rejected_messages)",
        CHAT,
    ),
    "ms-swift, query and response": Case(
        {"query": ASK, "response": OAK, "rejected_response": ROCK},
        "triple (detected: chosen=response, rejected=rejected_response, prompt=query)",
        TEXTS,
    ),
    "Axolotl, chat_template.default": Case(
        {"messages": [USER], "chosen": YES, "rejected": NO}, "messages (detected)", CHAT
    ),
    "Axolotl, chat_template.argilla_chat": Case(
        {"chosen": [USER, YES], "rejected": [USER, NO]}, "messages (detected)", CHAT
    ),
    "Axolotl, .argilla": Case(
        {"system": SYSTEM, "instruction": ASK, "chosen_response": OAK, "rejected_response": ROCK},
        "triple (detected: chosen=chosen_response, rejected=rejected_response, prompt=instruction)",
        (f"{SYSTEM}\n\n{ASK}", OAK, ROCK),
    ),
    "Axolotl, .icr": Case(
        {"system": SYSTEM, "input": ASK, "chosen": OAK, "rejected": ROCK},
        "triple (detected: prompt=input)",
        (f"{SYSTEM}\n\n{ASK}", OAK, ROCK),
    ),
    "Axolotl, .intel; Intel's orca pairs": Case(
        {"system": SYSTEM, "question": ASK, "chosen": OAK, "rejected": ROCK},
        "triple (detected: prompt=question)",
        (f"{SYSTEM}\n\n{ASK}", OAK, ROCK),
    ),
    "Axolotl, .prompt_pairs": Case(
        {"system": SYSTEM, "prompt": ASK, "chosen": OAK, "rejected": ROCK},
        "triple (detected)",
        (f"{SYSTEM}\n\n{ASK}", OAK, ROCK),
    ),
    "Axolotl, .ultra": Case(
        {"system": SYSTEM, "prompt": ASK, "chosen": [USER, YES], "rejected": [USER, NO]},
        "messages (detected)",
        CHAT_WITH_SYSTEM,
    ),
}
REFUSED = {
    "HelpSteer 1 and 2": (
        {"prompt": ASK, "response": OAK, "helpfulness": 4, "correctness": 4, "coherence": 4, "verbosity": 1},
        "HelpSteer: a row holds one answer and its ratings.* preference/ of its repository",
    ),
    "answers with a label (KTO)": ({"prompt": ASK, "completion": OAK, "label": True}, "the rows are unpaired"),
}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), json.dumps(values).encode())


def resolve(*rows: dict[str, Any], **settings: Any) -> SourceConfig:
    return resolve_source(map(raw, rows), source=SourceConfig(path="a", **settings))


@pytest.mark.parametrize("name", CASES)
def test_a_known_dataset_is_read_without_a_setting(name: str):
    case = CASES[name]
    source = resolve(case.row)
    assert describe_source(source, SourceConfig(path="a")) == case.read_as
    (pair,) = parse_row(raw(case.row), source=source)
    assert (pair if isinstance(pair, PreferencePair) else pair.messages()) == case.pair
    for reason, changes in (case.drops or {}).items():
        with pytest.raises(Dropped, match=reason):
            parse_row(raw(case.row | changes), source=source)


@pytest.mark.parametrize(
    "odd",
    [{"chosen": 1, "rejected": 2}, {"prompt": "p", "Answer 1": "a", "answer_2": "b"}, {"better": "a", "worse": "b"}],
)
def test_columns_of_an_odd_row_hide_no_layout(odd: dict[str, Any]):
    for name, case in CASES.items():
        source = resolve(case.row, case.row, case.row, odd | case.row, odd)
        assert describe_source(source, SourceConfig(path="a")) == case.read_as, name


@pytest.mark.parametrize("name", CASES)
def test_a_known_dataset_makes_dialogues_where_that_is_wanted(name: str):
    case = CASES[name]
    (pair,) = parse_row(raw(case.row), source=resolve(case.row), chat=True)
    assert not isinstance(pair, PreferencePair)
    prompt, chosen, rejected = pair.messages()
    assert (chosen, rejected) == ([YES], [NO])
    assert prompt[-1]["role"] == "user"
    assert prompt[-1]["content"] in (ASK, "Name a tree\n\nof Norway.")
    if SYSTEM in str(case.row):
        assert prompt[0] == turn("system", SYSTEM)


@pytest.mark.parametrize("name", REFUSED)
def test_a_dataset_that_is_not_of_pairs_is_refused_with_advice(name: str):
    row, message = REFUSED[name]
    with pytest.raises(Refused, match=message):
        resolve(row)


def test_the_page_has_a_line_for_each_and_no_other():
    table = PAGE.read_text().partition("## Names")[0]
    lines = re.findall(r"^\| ([^|]+?) \|.*\|$", table, re.MULTILINE)
    assert [line for line in lines if line != "dataset"] == [*CASES, *REFUSED]


def test_each_record_is_used_by_a_line():
    rows = [case.row for case in CASES.values()] + [row for row, _ in REFUSED.values()]
    for layout in LAYOUTS:
        columns = {column.partition(".")[0] for column in layout.columns}
        assert any(columns <= row.keys() for row in rows), layout.name
