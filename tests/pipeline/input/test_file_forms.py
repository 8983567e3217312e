"""Equal rows make equal pairs, ids and tokens, whatever kind of file they come from."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.keys import fingerprint, pair_id, prompt_id
from oddsmill.pipeline.formats.parsing import parse_row
from oddsmill.pipeline.input.parts import read_in_order
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.pipeline.tokens.text_rules import choose_rules
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, Origin

CHAT = (
    "{{ tools | tojson if tools else '' }}{{ effort or '' }}{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{{ m.tool_calls | tojson if m.tool_calls else '' }}{{ m.name or '' }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
Rows = list[dict[str, Any]]


# Rows. What a key holds is of one type everywhere, since a column has one type; whether it is there varies.
def objects(**values: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these keys, some of them null, in the order of their names, as `sorted_type` has them."""
    return st.fixed_dictionaries({}, optional={key: st.none() | value for key, value in sorted(values.items())}).map(
        lambda found: dict(sorted(found.items()))
    )


def needing(inner: st.SearchStrategy, **needed: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some keys always."""
    return st.builds(lambda more, always: dict(sorted((more | always).items())), inner, st.fixed_dictionaries(needed))


WORDS = st.sampled_from(
    ["yes", "no", "a, b", 'say "x"', "two\nlines", "dos\r\n", "é\u2028\U0001f600", "[1]", "1.0", "7 "]
)
TEXT = WORDS | WORDS | st.sampled_from(["", '[{"role": "user", "content": "q"}]', "9", "9"])
ARGUMENTS = objects(
    city=WORDS,
    days=st.integers(-5, 5),
    degrees=st.sampled_from([0.5, 1.0, -2.25]),
    exact=st.booleans(),
    list=st.lists(st.none() | st.integers(0, 3), max_size=2),
    nested=objects(a=WORDS, b=st.lists(objects(x=WORDS, y=st.integers(0, 3)), max_size=2)),
)
PROPERTY = needing(objects(description=WORDS, enum=st.lists(WORDS, max_size=2)), type=st.just("string"))
FUNCTION = needing(
    objects(
        description=WORDS,
        parameters=needing(
            objects(required=st.lists(WORDS, max_size=2)), properties=objects(a=PROPERTY, b=PROPERTY), type=st.just("o")
        ),
    ),
    name=WORDS,
)
TOOLS = st.lists(needing(objects(), function=FUNCTION, type=st.just("function")), max_size=2)
VARIABLES = objects(effort=WORDS, enable_thinking=st.booleans())


def message(role: str, arguments: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    call = needing(
        objects(id=WORDS), function=needing(objects(arguments=arguments), name=WORDS), type=st.just("function")
    )
    more = (
        objects(name=WORDS, weight=st.integers(0, 1))
        if role != "assistant"
        else objects(reasoning_content=WORDS, tool_calls=st.lists(call, max_size=2), weight=st.integers(0, 1))
    )
    return needing(more, role=st.just(role), content=WORDS)


def dialogues(arguments: st.SearchStrategy) -> st.SearchStrategy[list[Any]]:
    user, assistant, system = (message(role, arguments) for role in ("user", "assistant", "system"))
    turns = st.lists(st.tuples(user, assistant), max_size=1).map(
        lambda pairs: [turn for pair in pairs for turn in pair]
    )
    return st.builds(lambda first, middle, last: [*first, *middle, last], st.lists(system, max_size=1), turns, user)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    arguments = draw(st.just(ARGUMENTS) | st.just(ARGUMENTS.map(json.dumps)))
    answer = st.lists(message("assistant", arguments), min_size=1, max_size=1)
    row = needing(
        objects(tools=TOOLS, chat_template_kwargs=VARIABLES, score_chosen=st.integers(2, 4)),
        prompt=dialogues(arguments), chosen=answer, rejected=answer,
    )  # fmt: skip
    return {"messages": draw(st.lists(row, min_size=1, max_size=3))}


def turn(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return needing(objects(id=st.integers(0, 3)), value=WORDS, **{"from": st.just(role)})


TRIPLES = needing(objects(score_chosen=st.floats(0, 4, width=16), score_rejected=st.integers(0, 3), note=TEXT),
                  prompt=TEXT, chosen=TEXT, rejected=TEXT)  # fmt: skip
SHAREGPT = needing(objects(), conversations=st.tuples(turn("system"), turn("human")).map(list), chosen=turn("gpt"),
                   rejected=turn("gpt"))  # fmt: skip
RANKED = needing(objects(), prompt=TEXT, completions=st.lists(WORDS, min_size=2, max_size=2),
                 scores=st.lists(st.sampled_from([None, 1.0, 2.5, 3.0]), min_size=2, max_size=2))  # fmt: skip
SETS = messages() | st.one_of(
    *(
        st.lists(row, min_size=1, max_size=3).map(lambda rows, name=name: {name: rows})
        for name, row in (("triple", TRIPLES), ("sharegpt", SHAREGPT), ("ranked", RANKED))
    )
)


# Files.
def sorted_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct(
            [(field.name, sorted_type(field.type)) for field in sorted(kind, key=lambda field: field.name)]
        )
    return pa.list_(sorted_type(kind.value_type)) if pa.types.is_list(kind) else kind


def table_of(rows: Rows) -> pa.Table:
    """A table whose structs have all keys of all rows, by name."""
    columns = {name: [row.get(name) for row in rows] for name in sorted({name for row in rows for name in row})}
    return pa.table({name: pa.array(values, sorted_type(pa.array(values).type)) for name, values in columns.items()})


def has_no_child(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(has_no_child(field.type) for field in kind)
    return pa.types.is_list(kind) and has_no_child(kind.value_type)


def lines(rows: Rows) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def cells(rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({name for row in rows for name in row}))
    writer.writeheader()
    for row in rows:
        is_text = {name: isinstance(value, str) or value is None for name, value in row.items()}
        writer.writerow({name: value if is_text[name] else json.dumps(value) for name, value in row.items()})
    return text.getvalue().encode()


def arrow(rows: Rows, new: Callable[..., Any] = pa.ipc.new_stream) -> bytes:
    table, sink = table_of(rows), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(rows: Rows) -> bytes | None:
    sink, table = io.BytesIO(), table_of(rows)
    if any(has_no_child(field.type) for field in table.schema):
        return None  # Parquet has no object without a key
    pq.write_table(table, sink)
    return sink.getvalue()


FORMS: dict[str, Callable[[Rows], bytes | None]] = {
    "lines.jsonl": lines,
    "array.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "pretty.jsonl": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "data.json": lambda rows: json.dumps({"data": rows}).encode(),
    "cells.csv": cells,
    "rows.parquet": parquet,
    "file.arrow": lambda rows: arrow(rows, pa.ipc.new_file),
    "stream.arrow": arrow,
    "saved": arrow,
}


def write(folder: Path, name: str, rows: Rows) -> Path | None:
    content = FORMS[name](rows)
    if content is None:
        return None
    path = folder / name
    if name == "saved":
        path.mkdir(exist_ok=True)
        (path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_split": null}')
        (path / "data.arrow").write_bytes(content)
    else:
        path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat_template=CHAT))


def outcomes(path: Path, format_name: str, tokenizer: Tokenizer, compat: Any) -> tuple[list[int], list[Any]]:
    """The fingerprints of the rows of a file; and of each row its pairs, their ids and tokens, or why it is dropped."""
    source = SourceConfig(path=str(path), format=format_name)
    config = PreprocessConfig(source=source, tokenizer="t", output="o", compat=compat)
    rules = choose_rules(config)
    digests, found = [], []
    for row in read_in_order(find_inputs(source)):
        digests.append(fingerprint(row.as_bytes()))
        try:
            pairs = rules.parse_row(row, source=source)
        except Dropped as dropped:
            found.append(str(dropped.reason))
            continue
        tokens = [
            str(ids.reason) if isinstance(ids, Dropped) else ids
            for ids in tokenize_batch(pairs, tokenizer, rules, config)
        ]
        found.append(([(pair_id(pair), prompt_id(pair), pair) for pair in pairs], tokens))
    return digests, found


# Nine files a case: sixty are drawn where others draw a hundred, 1800 where others draw 3000.
EXAMPLES = settings().max_examples * 6 // 10


@pytest.mark.properties
@settings(max_examples=EXAMPLES)
@given(drawn=SETS, compat=st.sampled_from([None, None, "trl"]))
def test_equal_rows_are_the_same_in_every_form(
    folder: Path, tokenizer: Tokenizer, drawn: dict[str, Rows], compat: str | None
):
    ((format_name, rows),) = drawn.items()
    path = write(folder, "lines.jsonl", rows)
    assert path is not None
    digests, expected = outcomes(path, format_name, tokenizer, compat)
    assert len(expected) == len(rows)
    for name in FORMS:
        path = write(folder, name, rows)
        if path is None or (name == "cells.csv" and compat):  # TRL reads a text as a text, if it is JSON too
            continue
        other_digests, found = outcomes(path, format_name, tokenizer, compat)
        if name == "cells.csv":  # a cell cannot say whether a value is missing or empty, so reasons differ
            found, first = ([None if isinstance(each, str) else each for each in list_] for list_ in (found, expected))
        else:
            first = expected
        assert (name, found) == (name, first)
        assert (name, other_digests) == (name, digests)


CALL = {"name": "weather", "arguments": {"city": "Oslo", "at": {"day": 1, "hour": None}}}
SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
ROW = {
    "prompt": [{"role": "user", "content": "weather in Oslo?"}],
    "chosen": [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}],
    "rejected": [{"role": "assistant", "content": "no"}],
    "tools": [{"type": "function", "function": SCHEMA}],
    "chat_template_kwargs": {"effort": "high", "style": {"a": 1, "b": None}},
}
OTHER = {
    "prompt": [{"role": "user", "content": "hello"}],
    "chosen": [{"role": "assistant", "content": "hi"}],
    "rejected": [{"role": "assistant", "content": "bye", "tool_calls": None}],
    "tools": None,
    "score": 1.0,
}


def sorted_keys(value: Any) -> Any:
    """The value with the keys of all its objects by name, which is the order of the columns of `table_of`."""
    return json.loads(json.dumps(value, sort_keys=True))


def reordered(value: Any) -> Any:
    """The value with the keys of all its objects in the other order."""
    if isinstance(value, dict):
        return {key: reordered(part) for key, part in reversed(value.items())}
    return [reordered(part) for part in value] if isinstance(value, list) else value


def test_the_order_of_keys_makes_no_other_pair():
    source = SourceConfig(path="a", format="messages")
    (row,), (other,) = (parse_row(RawRow(Origin(0, 0), each), source=source) for each in (ROW, reordered(ROW)))
    assert row != other  # a template may write the keys as they stand
    assert (pair_id(row), prompt_id(row)) == (pair_id(other), prompt_id(other))
    (changed,) = parse_row(RawRow(Origin(0, 0), ROW | {"tools": [SCHEMA]}), source=source)
    assert pair_id(changed) != pair_id(row)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": None, "b": "x"}, {"b": "x"}),
        ({"a": "", "b": "x"}, {"b": "x"}),
        ({"a": {"n": None, "m": [{"k": None}, None]}}, {"a": {"m": [{}, None]}}),
        ({"a": 1.0, "b": [2.0, {"c": 3.0}]}, {"b": [2, {"c": 3}], "a": 1}),
        ({"a": 8.5, "b": 1.0, "c": True}, {"a": "8.5", "b": "1.0", "c": "true"}),
        ({"a": [{"role": "user", "content": None}], "b": {"x": 1}}, {"a": '[{"role": "user"}]', "b": '{"x":1.0}'}),
        ({"a": 1e20}, {"a": 10**20}),
    ],
)
def test_equal_rows_have_one_fingerprint(first: dict[str, Any], second: dict[str, Any]):
    assert RawRow(Origin(0, 0), first).as_bytes() == RawRow(Origin(0, 0), second).as_bytes()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": "x"}, {"b": "x"}),
        ({"a": [None]}, {"a": []}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": "1.5.0"}, {"a": "1.5"}),
        ({"a": "[1"}, {"a": [1]}),
        ({"a": {"b": "1"}}, {"a": {"b": 1}}),
    ],
)
def test_other_rows_have_another_fingerprint(first: dict[str, Any], second: dict[str, Any]):
    assert RawRow(Origin(0, 0), first).as_bytes() != RawRow(Origin(0, 0), second).as_bytes()


def test_a_run_makes_the_same_bytes_of_equal_rows_in_every_form(
    run: Callable, make_tokenizer: Callable[..., Path], tmp_path: Path
):
    tokenizer = str(make_tokenizer(tmp_path / "tokenizer", chat_template=CHAT))
    digests = []
    for name in ("lines.jsonl", "rows.parquet", "cells.csv"):
        path = write(tmp_path, name, [sorted_keys(row) for row in (ROW, OTHER)])
        digests.append(
            run(f"of-{name}", path, tokenizer=tokenizer, max_length=512, tokenizer_engine="tokenizers").digests
        )
    assert "manifest.json" in digests[0]
    assert digests[0] == digests[1] == digests[2]
