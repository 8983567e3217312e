"""The layout of each file is told from its own rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.resolved_sources import ResolvedSources, describe_formats, find_all_inputs, resolve_sources
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.schemas.errors import Refused

TEXTS = [{"prompt": f"T{n}\n", "chosen": "y", "rejected": "n"} for n in range(4)]
CHATS = [
    {
        side: [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": side}]
        for side in ("chosen", "rejected")
    }
    for n in range(6)
]
NEITHER = [{"question": "q", "good": "y", "bad": "n"}]


@pytest.fixture
def resolve(write_rows: Callable, tmp_path: Path) -> Callable[..., ResolvedSources]:
    """Resolves files of rows, by name, as one source of all of them or as the sources given."""

    def call(files: dict[str, list[Any]], *sources: dict[str, Any], **options: Any) -> ResolvedSources:
        for name, rows in files.items():
            write_rows(name, rows)
        made = [
            SourceConfig(**{"path": [str(tmp_path / name) for name in each.pop("files", files)]} | each)
            for each in [dict(source) for source in sources] or [{}]
        ]
        inputs = find_all_inputs(made)
        found = resolve_sources(made, inputs, OURS, **options)
        call.lines = describe_formats(found.of_inputs, inputs, made)  # type: ignore[attr-defined]
        return found

    return call


def formats(found: ResolvedSources) -> list[str | None]:
    return [source.format for source in found.of_inputs]


def test_31_each_file_has_a_format_of_its_own(resolve: Callable, tmp_path: Path):
    found = resolve({"chat.jsonl": CHATS, "text.jsonl": TEXTS})
    assert formats(found) == ["messages", "triple"]
    assert (len(found.pairs), found.rows) == (10, 10)
    assert resolve.lines == [
        f"messages (detected): {tmp_path}/chat.jsonl",
        f"triple (detected): {tmp_path}/text.jsonl",
    ]


def test_files_that_are_laid_out_alike_share_one_line_and_one_source(resolve: Callable):
    found = resolve({f"{n}.jsonl": TEXTS for n in range(5)})
    assert resolve.lines == ["triple (detected)"]
    assert len({id(source) for source in found.of_inputs}) == 1


def test_a_file_whose_layout_cannot_be_told_is_refused_by_name(resolve: Callable):
    with pytest.raises(Refused, match=r"neither\.jsonl: none of the first 1 rows reads as triple.*'question', 'good'"):
        resolve({"text.jsonl": TEXTS, "neither.jsonl": NEITHER})


def test_a_tiny_file_beside_large_ones_is_laid_out_as_they_are(resolve: Callable):
    long = [row | {"prompt": "T" * 2000} for row in TEXTS]
    assert formats(resolve({"text.jsonl": long, "neither.jsonl": NEITHER})) == ["triple", "triple"]


def test_an_empty_file_is_no_obstacle_and_a_source_without_rows_is_refused(resolve: Callable):
    assert formats(resolve({"empty.jsonl": [], "text.jsonl": TEXTS})) == ["triple", "triple"]
    with pytest.raises(Refused, match="the input has no rows"):
        resolve({"empty.jsonl": []})


def test_of_many_files_some_are_looked_at_and_all_where_these_differ(resolve: Callable):
    files = {f"{n:02}.jsonl": TEXTS for n in range(20)}
    assert resolve(files, files_looked_at=5).rows == 5 * 4
    mixed = files | {"04.jsonl": CHATS, "17.jsonl": CHATS}  # 00, 04, 08, 12 and 16 are looked at first
    found = resolve(mixed, files_looked_at=5)
    assert [n for n, name in enumerate(formats(found)) if name == "messages"] == [4, 17]
    assert found.rows == 18 * 4 + 2 * 6


def test_a_setting_that_does_not_suit_one_of_the_formats_is_refused(resolve: Callable):
    with pytest.raises(Refused, match=r"--source.ranked_pairs=all: has no effect on the format triple"):
        resolve({"text.jsonl": TEXTS}, {"ranked_pairs": "all"})


def test_several_sources_have_their_own_settings_and_a_refusal_says_which(resolve: Callable):
    files = {"text.jsonl": TEXTS, "own.jsonl": NEITHER}
    fields = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    sources = [{"files": ["text.jsonl"]}, {"files": ["own.jsonl"], "format": "triple", "fields": fields}]
    found = resolve(files, *sources)
    assert formats(found) == ["triple", "triple"]
    assert [source.fields for source in found.of_inputs] == [{}, fields]
    assert [pair.prompt for pair in found.pairs][-1] == "q"
    with pytest.raises(Refused, match=r"^--source\[1\]\.margin=2: has no effect on the format votes"):
        resolve(files, sources[0], sources[1] | {"format": "votes", "margin": 2})
    with pytest.raises(Refused, match=r"^--source\[1\]\.path=.*/absent\.jsonl: no such file"):
        resolve(files, sources[0], {"files": ["absent.jsonl"]})


def test_columns_that_are_not_read_are_counted_by_row(resolve: Callable):
    topics = ["a", "", None, {"a": [{"b": None}, []]}]
    rows = [row | {"topic": topic, "id": 0, "no": []} for row, topic in zip(TEXTS, topics, strict=True)]
    assert resolve({"text.jsonl": rows}).not_read == {"topic": 1, "id": 4}
    rows[3]["topic"] = {"a": [{"b": None}, [False]]}
    assert resolve({"text.jsonl": rows}).not_read == {"topic": 2, "id": 4}
    rows[0]["topic"] = "deep"
    line = json.dumps(rows[0]).replace('"deep"', "[" * 390 + "1" + "]" * 390).encode()
    assert resolve({"text.jsonl": [line]}).not_read == {"topic": 1, "id": 1}


def test_columns_that_are_named_and_that_no_row_has_are_told(resolve: Callable):
    rows = [row | {"persona": {"text": "s"}} for row in TEXTS]
    fields = {"system": "sytem", "history": "persona.turns", "images": "persona.text", "prompt": ["prompt", "input"]}
    assert resolve({"text.jsonl": rows}, {"fields": fields | {"images": []}}).absent == [
        "sytem",
        "persona.turns",
        "input",
    ]
    assert resolve({"text.jsonl": rows}, {"fields": {"system": "persona.text"}}).absent == []
