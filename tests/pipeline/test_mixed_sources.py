"""Runs over files that are laid out differently, as a user meets them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.schemas.errors import Refused

CASE = Path(__file__).parents[1] / "cases" / "31"
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<assistant>' if add_generation_prompt }}"
FIELDS = {"prompt": "question", "chosen": "good", "rejected": "bad"}
OWN = [
    {"question": f"{n}?", "good": "yes", "bad": "no", "topic": "s" if n else "", "labels": [], "id": n}
    for n in range(3)
]


def test_31_a_mixed_list_of_formats_and_fields(run: Callable, write_rows: Callable, tmp_path: Path):
    own = write_rows("own.jsonl", OWN)
    chat, text = (str(CASE / name) for name in ("chat.jsonl", "text.jsonl"))
    sources = [{"path": [chat, text]}, {"path": str(own), "format": "triple", "fields": FIELDS}]
    result = run("out", source=sources, chat_template=CHAT, beam=("--direct_num_workers=2",))
    lines = [re.sub(r"/\S*/", "", line) for line in result.lines]  # without the folders
    first = next(index for index, line in enumerate(lines) if line.startswith("format"))
    assert lines[first : first + 4] == [
        "format     messages (detected): chat.jsonl",
        "           triple (detected): text.jsonl",
        "           triple fields={'prompt': 'question', 'chosen': 'good', 'rejected': 'bad'}: own.jsonl",
        "not read   id (3 rows), topic (2 rows), of 13 rows looked at: no part of a pair",
    ]
    assert "not read   id (3 rows), topic (2 rows)" in lines
    assert result.manifest["not_read"] == {"id": 3, "topic": 2}
    assert result.manifest["ledger"] == {"rows_in": 13, "pairs_out": 13, "drops": {}, "extra_pairs": 0}
    inputs = json.loads((result.folder / "run.json").read_text())["inputs"]
    assert [(each["source"], each["rows"], each["drops"]) for each in inputs] == [(0, 6, {}), (0, 4, {}), (1, 3, {})]

    # The same rows and settings in other files, an array of them and no list of paths, give the same bytes.
    (tmp_path / "b.json").write_text(json.dumps([json.loads(line) for line in own.read_text().splitlines()]))
    whole = tmp_path / "a.jsonl"
    whole.write_bytes(Path(text).read_bytes())
    sources = [
        sources[1] | {"path": str(tmp_path / "b.json")},
        {"path": str(whole)},
        {"path": chat, "format": "messages"},
    ]
    assert run("again", source=sources, chat_template=CHAT).digests == result.digests


def test_explain_and_plan_read_each_file_by_its_own_source(
    command: Callable, write_rows: Callable, tokenizer_folder: Path
):
    own, text = write_rows("own.jsonl", OWN), CASE / "text.jsonl"
    sources = [{"path": str(text)}, {"path": str(own), "format": "triple", "fields": FIELDS}]
    code, out, err = command(
        "explain", f"--source={json.dumps(sources)}", f"--tokenizer={tokenizer_folder}", "--row=own.jsonl:1"
    )
    assert (code, err) == (0, "")
    assert "\nformat     triple\nnot read   topic, id\nprompt     '1?'\n" in out
    code, out, err = command("plan", f"--source={json.dumps(sources)}", f"--tokenizer={tokenizer_folder}")
    assert (code, err) == (0, "")
    assert f"\nformat     triple (detected): {text}\n           triple fields={FIELDS}: {own}\n" in out
    assert "\nnot read   id (3 rows), topic (2 rows), of 7 rows looked at: no part of a pair\n" in out


def test_31_a_file_that_was_read_as_what_it_is_not_ends_the_run(run: Callable, tmp_path: Path):
    paths = [CASE / "chat.jsonl", CASE / "text.jsonl"]
    with pytest.raises(
        Refused, match=r"text\.jsonl: 4 of 4 rows were dropped \(wrong_type 4\).*read as messages"
    ) as refused:
        run("out", *paths, source={"format": "messages"}, chat_template=CHAT)
    assert "Give this file as a source of its own" in str(refused.value)
    assert [path.name for path in (tmp_path / "out" / "rejects").iterdir()] == ["00001-text.jsonl.jsonl"]
    result = run("out", *paths, source={"format": "messages"}, chat_template=CHAT, max_drop_share=1.0)
    assert any(line.endswith("text.jsonl: 4 of 4 rows were dropped (wrong_type 4)") for line in result.lines)


def test_sources_that_change_places_make_another_dataset(run: Callable, write_rows: Callable):
    a, b = (str(write_rows(f"{name}.jsonl", [row | {"bad 2": name} for row in OWN])) for name in "ab")
    other = FIELDS | {"rejected": "bad 2"}
    run("out", source=[{"path": a, "fields": FIELDS}, {"path": b, "fields": other}])
    again = run("out", source=[{"path": b, "fields": other}, {"path": a, "fields": FIELDS}])
    assert again.lines[-1].startswith("nothing changed: ")
    with pytest.raises(Refused, match="input: a file is read by another of the sources"):
        run("out", source=[{"path": b, "fields": FIELDS}, {"path": a, "fields": other}])
