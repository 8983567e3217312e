import json
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.formats.detection import check_source, resolve_source
from oddsmill.pipeline.formats.pairs import Pair
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.errors import Refused

H, A = "\n\nHuman:", "\n\nAssistant:"
GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def raw(values: Any) -> RawRow:
    return RawRow(Origin(0, 0), values if isinstance(values, bytes) else json.dumps(values).encode())


def one(values: Any, format_name: str, **source: Any) -> Pair:
    (pair,) = parse_row(raw(values), source=SourceConfig(path="a", format=format_name, **source))
    return pair


def detect(rows: list[Any], **source: Any) -> str:
    return str(resolve_source(map(raw, rows), source=SourceConfig(path="a", **source)).format)


def test_the_format_is_the_one_under_which_rows_become_pairs():
    dialogue = {"chosen": f"{H} a{A} b", "rejected": f"{H} a{A} c"}
    user, yes, no = ({"role": role, "content": role[0]} for role in ("user", "assistant", "assistant"))
    no = no | {"content": "no"}
    assert detect([b"{", GOOD]) == "triple"
    assert detect([dialogue]) == "transcript"
    assert detect([dialogue | {"prompt": "p"}]) == "triple"
    assert detect([{"prompt": [user], "chosen": [yes], "rejected": [no]}]) == "messages"
    assert detect([{"chosen": [user, yes], "rejected": [user, no]}]) == "messages"
    turns = {"conversations": [{"from": "human", "value": "q"}]}
    assert detect([turns | {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}]) == (
        "sharegpt"
    )
    assert detect([{"prompt": "p", "completions": ["a", "b"], "scores": [1, 2]}]) == "ranked"
    assert detect([{"prompt": "p", "completions": ["a", "b"], "votes": 1}]) == "votes"


def test_a_format_that_cannot_be_told_is_refused_with_the_fields_there_are():
    with pytest.raises(Refused, match=r"ranked or votes \(fields: 'question', 'a'; triple: no field 'prompt'; "):
        detect([{"question": "x", "a": "y"}])
    with pytest.raises(Refused, match="the input has no rows"):
        detect([])
    with pytest.raises(Refused, match="unreadable: broken JSON at character 1"):
        detect([b"{", b"{}}"])


def test_a_refusal_says_what_each_format_misses_in_the_first_row_that_can_be_read():
    whole = {"chosen": "[1]", "rejected": "[2]"}  # dialogues written as JSON text, as a CSV file holds them
    with pytest.raises(Refused) as refused:
        detect([b"{", whole])
    for problem in ("triple: no field 'prompt'", "messages: prompt, chosen and rejected are strings, not messages"):
        assert problem in str(refused.value)
    assert "fields: 'chosen', 'rejected'" in str(refused.value)


def test_unpaired_rows_are_refused_as_what_they_are():
    with pytest.raises(Refused, match="the rows are unpaired"):
        detect([{"messages": [{"role": "user", "content": "q"}], "label": True}])


@pytest.mark.parametrize(
    ("format_name", "source"),
    [
        ("triple", {"ranked_pairs": "all"}),
        ("votes", {"margin": 1.0}),
        ("triple", {"vote_values": {"x": "first"}}),
        ("json:loads", {"fields": {"prompt": "q"}}),
    ],
)
def test_a_setting_that_a_format_does_not_use_is_refused(format_name: str, source: dict):
    with pytest.raises(Refused, match=f"--source.{next(iter(source))}=.* has no effect on the format {format_name}"):
        check_source(SourceConfig(path="a", format=format_name, **source))


def test_a_format_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Refused, match=r"--source\.format=csv: must be one of triple, transcript, .*or module:function"):
        check_source(SourceConfig(path="a", format="csv"))


def test_votes_of_0_and_1_alone_are_refused_until_their_meaning_is_said():
    rows = [raw({"prompt": "p", "completions": ["a", "b"], "votes": vote}) for vote in (0, 1, 1)]
    for given in (None, "votes"):
        with pytest.raises(Refused, match=r"votes are 0 and 1.*--source.vote_values='{\"0\": \"first\", \"1\": "):
            resolve_source(rows, source=SourceConfig(path="a", format=given))
    resolve_source(rows, source=SourceConfig(path="a", vote_values={"0": "first", "1": "second"}))
    resolve_source(
        [*rows, raw({"prompt": "p", "completions": ["a", "b"], "votes": "2"})], source=SourceConfig(path="a")
    )


def test_names_that_the_user_gives_are_left_to_them():
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}

    def resolve(**settings: Any) -> SourceConfig:
        return resolve_source([raw(row)], source=SourceConfig(path="a", **settings))

    safer = resolve(fields={"votes": "safer_response_id"})
    assert parse_row(raw(row), source=safer) == [("p", "b", "a")]
    own = resolve(fields={"chosen": "response_1", "rejected": "response_0"})
    assert (own.format, parse_row(raw(row), source=own)) == ("triple", [("p", "b", "a")])
    assert resolve(format="votes").vote_values == {"0": "first", "1": "second"}
    assert resolve(vote_values={"0": "second", "1": "first"}).vote_values == {"0": "second", "1": "first"}


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        ("Prompt, Chosen, Rejected", {"prompt": "Prompt", "chosen": "Chosen", "rejected": "Rejected"}),
        ("query, chosen answer, rejected answer", {"prompt": "query", "chosen": "chosen answer"}),
        ("question, response-chosen, response-rejected", {"prompt": "question", "chosen": "response-chosen"}),
        ("prompt, accepted, rejected", {"chosen": "accepted"}),
        ("prompt, preferred, dispreferred", {"chosen": "preferred", "rejected": "dispreferred"}),
        ("prompt, better_response, worse_response", {"chosen": "better_response", "rejected": "worse_response"}),
        ("instruction, input, chosen, rejected", {"prompt": ["instruction", "input"]}),
        ("problem, chosen, rejected", {"prompt": "problem"}),
    ],
)
def test_names_that_datasets_have_for_our_fields_are_found(columns: str, fields: dict):
    row = {column: f"text {number}" for number, column in enumerate(columns.split(", "))}
    source = resolve_source([raw(row)], source=SourceConfig(path="a"))
    assert source.format == "triple"
    assert source.fields | fields == source.fields
    parse_row(raw(row), source=source)


def test_other_names_are_looked_for_only_where_most_rows_are_no_pairs_under_ours():
    # Two of the transcripts do not fit; with the question for a prompt all rows would be texts, and wrong.
    start = f"{H} a{A}"
    rows = [{"question": "q", "chosen": f"{start} b", "rejected": f"{start} c"}] * 3
    rows += [{"question": "q", "chosen": f"{start} b", "rejected": f"{H} x{A} c"}] * 2
    assert detect(rows) == "transcript"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "response_a": "x", "response_b": "y", "winner": "response_b"}, ("p", "y", "x")),
        ({"question": "p", "answer_1": "x", "answer_2": "y", "preference": "1"}, ("p", "x", "y")),
        ({"prompt": "p", "output_0": "x", "output_1": "y", "label": 1}, ("p", "y", "x")),
        ({"prompt": "p", "Response A": "x", "Response B": "y", "chosen": "B"}, ("p", "y", "x")),
        ({"prompt": "p", "completion1": "x", "completion2": "y", "choice": "model_2"}, ("p", "y", "x")),
        ({"prompt": "p", "answer_a": "x", "answer_b": "y", "score_a": 1, "score_b": "2.5"}, ("p", "y", "x")),
        (
            {"prompt": "p"}
            | {f"answer_{number}": text for number, text in enumerate("xyz")}
            | {f"score_{number}": score for number, score in enumerate((3, 1, 2))},
            ("p", "x", "y"),
        ),
    ],
)
def test_answers_in_columns_of_their_own_are_found_with_their_vote_or_their_scores(row: dict, expected: tuple):
    source = resolve_source([raw(row)], source=SourceConfig(path="a"))
    assert parse_row(raw(row), source=source) == [expected]


@pytest.mark.parametrize("vote", [-1, True, "both good", 0.5])
def test_a_column_of_other_values_is_not_taken_for_votes(vote: Any):
    rows = [{"prompt": "p", "response_a": "x", "response_b": "y", "preference": each} for each in (1, 2, vote)]
    with pytest.raises(Refused, match="none of the first 3 rows"):
        detect(rows)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "answer_1": "x", "answer_2": "y", "answer_3": "z", "choice": 1},
        {"instruction": "p", "output": ["x", "y", "z"]},
    ],
)
def test_of_three_answers_no_pair_is_guessed(row: dict):
    with pytest.raises(Refused, match="none of the first 1 rows"):
        detect([row])


def test_a_side_without_turns_beside_an_image_ends_no_run():
    picture = {"role": "user", "content": [{"type": "image"}]}
    assert detect([{"prompt": [picture], "chosen": [], "rejected": []}, GOOD, GOOD]) == "triple"


def test_the_names_of_keys_tell_the_format_in_json_text_too():
    turns = {"prompt": ("human", "q"), "chosen": ("gpt", "a"), "rejected": ("gpt", "b")}
    row = {name: [{"from": who, "value": said}] for name, (who, said) in turns.items()}
    assert detect([row]) == detect([{name: json.dumps(value) for name, value in row.items()}]) == "sharegpt"


@pytest.mark.parametrize(("better", "worse"), [("winner", "loser"), ("better", "worse"), ("chosen", "rejected")])
def test_columns_that_name_the_answers_are_votes_and_no_answers(better: str, worse: str):
    row = {"prompt": "p", "response_a": "x", "response_b": "y", better: "response_b", worse: "response_a"}
    source = resolve_source([raw(row)], source=SourceConfig(path="a"))
    assert parse_row(raw(row), source=source) == [("p", "y", "x")]


def test_rows_that_are_dropped_for_what_they_hold_tell_their_format():
    turns = {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}]}
    image = turns | {"rejected": [{"role": "assistant", "content": "b"}], "images": ["a.png"]}
    assert detect([image]) == "messages"
    assert detect([{"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}]) == "ranked"
    assert detect([{"prompt": "p", "chosen": "a", "rejected": "a"}]) == "triple"
