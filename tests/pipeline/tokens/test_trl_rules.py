"""compat trl against TRL's own results, and what it does with rows that TRL fails on."""

import dataclasses
import gzip
import json
from array import array
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.detection import resolve_source
from oddsmill.pipeline.formats.pairs import ChatPair, Notes, Pair, PairIds
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.tokens import trl_rules
from oddsmill.pipeline.tokens.text_rules import TRL
from oddsmill.pipeline.tokens.tokenization import encode_pairs, tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason, Origin
from oddsmill.schemas.errors import Refused

TRAINED = ["llama3ish-bos", "qwen2ish-nobos", "gpt2ish-boseqeos", "spmish-bos"]
REAL = ["llama-3", "qwen2", "phi-3-mini", "minimind-chatml"]
SOURCE = SourceConfig(path="a")
TRL_RAISES = {DropReason.TRL_ERROR, DropReason.WRONG_TYPE}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]


def load(shared: Path, name: str) -> Tokenizer:
    return load_tokenizer(shared / ("data" if name in REAL else "golden") / "tokenizers" / name)


@cache
def config(max_length: int = 1024) -> PreprocessConfig:
    return PreprocessConfig(source=SOURCE, tokenizer="t", output="o", compat="trl", max_length=max_length)


def parse(row: dict[str, Any]) -> Pair:
    (pair,) = TRL.parse_row(RawRow(Origin(0, 0), row), source=dataclasses.replace(SOURCE, format="triple"))
    return pair


def tokenize(row: dict[str, Any], tokenizer: Tokenizer) -> PairIds | Dropped:
    try:
        (ids,) = tokenize_batch([parse(row)], tokenizer, TRL, config())
        return ids
    except Dropped as dropped:
        return dropped


def tokenize_for_each(max_lengths: Iterable[int], row: dict[str, Any], tokenizer: Tokenizer) -> list[PairIds | Dropped]:
    """The ids that `tokenize_batch` makes with each length, of texts that are encoded once."""
    (encoded,) = encode_pairs([parse(row)], tokenizer, TRL, config())

    def fitted(max_length: int) -> PairIds | Dropped:
        try:
            return encoded if isinstance(encoded, Dropped) else TRL.make_ids(encoded, tokenizer, config(max_length))
        except Dropped as dropped:
            return dropped

    return [fitted(max_length) for max_length in max_lengths]


def is_valid(trl: dict[str, Any], max_length: int) -> bool:
    """Whether TRL's result is a row: a token of prompt that both sides share, answers, no side beyond max_length."""
    prompts = [sum(label == -100 for label in trl[f"{side}_labels"]) for side in ("chosen", "rejected")]
    sides = [trl[f"{side}_input_ids"] for side in ("chosen", "rejected")]
    shares_prompt = min(prompts) > 0 and sides[0][0] == sides[1][0]
    return shares_prompt and all(p < len(ids) <= max_length for p, ids in zip(prompts, sides, strict=True))


def check(ids: PairIds | Dropped, trl: dict[str, Any], max_length: int, name: str) -> bool:
    """Holds one result against TRL's.

    Returns: whether it is a pair.
    """
    if isinstance(ids, Dropped):
        assert "error" in trl or not is_valid(trl, max_length), f"{name}: {ids}"
        if "error" in trl:
            assert ids.reason in TRL_RAISES, f"{name}: {ids}"
        return False
    assert "error" not in trl, name
    for side in ("chosen", "rejected"):
        assert (ids.prompt + getattr(ids, side)).tolist() == trl[f"{side}_input_ids"], f"{name}, {side}"
    if Notes.PROMPTS_DIFFER not in ids.notes:
        assert ids.prompt.tolist() == [
            i for i, label in zip(trl["chosen_input_ids"], trl["chosen_labels"], strict=True) if label < 0
        ]
    return True


@pytest.mark.parametrize("name", [*TRAINED, *REAL])
def test_every_row_of_the_goldens_is_trls_token_for_token(shared: Path, name: str):
    golden, tokenizer = shared / "golden/tokenization", load(shared, name)
    settings = json.loads((golden / "settings.json").read_text())["settings"]
    rows, outs = read(golden / "rows.jsonl.gz"), read(golden / f"{name}.jsonl.gz")
    max_lengths = {f"C{number}": settings[f"C{number}"]["max_length"] or 512 for number in range(7)}
    pairs = 0
    for row, out in zip(rows, outs, strict=True):
        texts = {side: row[side] for side in ("prompt", "chosen", "rejected")}
        for setting, ids in zip(max_lengths, tokenize_for_each(max_lengths.values(), texts, tokenizer), strict=True):
            pairs += check(ids, out["out"][setting], max_lengths[setting], f"{row['id']} {setting}")
    assert pairs > 1200


@pytest.mark.parametrize("name", [*TRAINED, *REAL])
def test_every_dialogue_of_the_goldens_is_rendered_and_tokenized_as_trl_does(shared: Path, name: str):
    golden, tokenizer = shared / "golden/conversational", load(shared, name)
    pairs = 0
    for row, out in zip(read(golden / "rows.jsonl.gz"), read(golden / f"{name}.jsonl.gz"), strict=True):
        trl = out if "error" in out else out["tokenized"]
        pairs += check(tokenize(row["row"], tokenizer), trl, 1024, f"{row['id']} {row['kind']}")
        if "rendered" in out:
            pair = parse(row["row"])
            if isinstance(pair, ChatPair):
                assert tokenizer.chat_template is not None
                pair = trl_rules.render(pair, tokenizer.chat_template, config()).texts
            assert pair._asdict() == {side: out["rendered"][side] for side in ("prompt", "chosen", "rejected")}
    assert pairs >= 83


def arrays(*lists: list[int]) -> list[array]:
    return [array("i", ids) for ids in lists]


def sides(ids: PairIds) -> tuple[list[int], list[int], list[int]]:
    return ids.prompt.tolist(), ids.chosen.tolist(), ids.rejected.tolist()


# fmt: off
def test_prompts_that_differ_share_what_they_have_in_common():
    heads, answers, merged = trl_rules.split(*arrays([1, 2, 3], [1, 2, 3, 7], [1, 2, 9, 8]), bos_id=None, eos_id=0)
    assert (heads, answers, merged) == (arrays([1, 2, 3], [1, 2]), arrays([7, 0], [9, 8, 0]), True)
    ids = trl_rules.fit(heads, answers, merged, config(5))
    assert sides(ids) == ([1, 2], [3, 7, 0], [9, 8, 0])
    assert ids.notes == Notes.PROMPTS_DIFFER | Notes.BOUNDARY_MERGED
# fmt: on


def test_a_side_is_cut_after_its_own_prompt_and_then_has_no_eos():
    ids = trl_rules.fit(arrays([1, 2], [1, 2]), arrays([7, 8, 9, 0], [7, 0]), False, config(5))
    assert sides(ids) == ([1, 2], [7, 8, 9], [7, 0])
    assert ids.truncated.names() == ["chosen"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "", "rejected": "x"}, "trl_error: an empty side"),
        ({"prompt": [{"role": "user", "content": "q"}], "chosen": [], "rejected": []}, "trl_error"),
        ({"prompt": "p", "chosen": None, "rejected": "r"}, "wrong_type: field 'chosen' is null"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "r"}, "unreadable"),
        ({"chosen": "a"}, "missing_field: no field 'rejected'"),
        (
            {side: [{"role": "user", "content": side}] for side in ("prompt", "chosen", "rejected")}
            | {"chat_template_kwargs": 5},
            "wrong_type: chat_template_kwargs is int, not an object",
        ),
    ],
)
def test_rows_that_trl_cannot_read_are_dropped_with_a_name(row: dict[str, Any], reason: str):
    with pytest.raises(Dropped, match=reason):
        parse(row)


def test_a_format_is_detected_as_what_it_is_and_strings_without_a_prompt_too():
    messages = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    messages |= {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert resolve_source([RawRow(Origin(0, 0), messages)], source=SOURCE, parse=TRL.parse_row).format == "messages"
    strings = {"chosen": "The color is blue.", "rejected": "The color is green."}
    assert resolve_source([RawRow(Origin(0, 0), strings)], source=SOURCE, parse=TRL.parse_row).format == "triple"


@pytest.mark.parametrize(
    "setting",
    [{"max_prompt_length": 100}, {"max_completion_length": 9}, {"truncation_side": "keep_start"}, {"overlong": "drop"}],
)
def test_length_rules_that_trl_does_not_have_are_refused(setting: dict[str, Any]):
    with pytest.raises(Refused, match=f"--{next(iter(setting))}=.* has no effect with --compat=trl"):
        PreprocessConfig(source=SOURCE, tokenizer="t", output="o", compat="trl", **setting)
