import dataclasses
import hashlib
import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import (
    Ledger,
    Manifest,
    Shard,
    SplitSummary,
    TokenizerSummary,
    file_sha256,
    parse_manifest,
    read_manifest,
)
from tests.altered_json import altered, broken_texts


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "train-00000-of-00001.arrayrecord").write_bytes(b"rows")
    shard = Shard(
        name="train-00000-of-00001.arrayrecord",
        records=1,
        bytes=4,
        sha256=file_sha256(tmp_path / "train-00000-of-00001.arrayrecord"),
    )
    split = SplitSummary(
        shards=[shard],
        rows=1,
        pairs=2,
        tokens={"prompt": 5, "chosen": 4, "rejected": 3},
        padding_share=0.25,
        max_pairs_per_row=2,
        truncated={"prompt": 0, "chosen": 0, "rejected": 1},
        length_histograms={"prompt": {"4": 2}, "chosen": {"2": 2}, "rejected": {"2": 2}},
    )
    tokenizer = TokenizerSummary(
        sha256={"tokenizer.json": "0" * 64}, chat_template_sha256=None, bos_id=1, eos_id=2, pad_id=0, vocab_size=9
    )
    return Manifest(
        tool_version="1",
        settings={"seed": 0, "max_length": 8},
        tokenizer=tokenizer,
        source_fingerprint="ab",
        row_length=16,
        splits={"train": split},
        ledger=Ledger(rows_in=3, pairs_out=2, drops={"empty_answer": 1}),
        counts={"boundary_merged": 0},
        writer_options="group_size:1",
        tokenizer_engine="fastokens",
    )


def test_a_manifest_comes_back_from_its_text(manifest: Manifest):
    assert parse_manifest(manifest.to_json(), path="m") == manifest
    split = dataclasses.replace(manifest.splits["train"], unscored={"chosen": 1, "rejected": 0})
    of_turns = dataclasses.replace(manifest, schema_version=2, splits={"train": split})
    assert parse_manifest(of_turns.to_json(), path="m") == of_turns
    assert "unscored" in of_turns.to_json() and "unscored" not in manifest.to_json()  # as before there were any
    assert parse_manifest(manifest.to_json(), path="m").sha256 == manifest.sha256


def test_the_engine_that_encoded_is_told_and_has_no_part_in_the_fingerprint(manifest: Manifest):
    other = dataclasses.replace(manifest, tokenizer_engine="tokenizers")
    assert other.sha256 == manifest.sha256
    assert parse_manifest(other.to_json(), path="m") == other != manifest
    text = manifest.to_json().replace('"fastokens"', '"magic"')
    with pytest.raises(Refused, match=r"tokenizer_engine=.*: must be tokenizers or fastokens"):
        parse_manifest(text, path="m")


def test_the_text_of_an_earlier_version_s_manifest_stays_the_same(manifest: Manifest):
    fields = json.loads(manifest.to_json())
    for later, where in (
        ("manifest_sha256", fields),
        ("not_read", fields),
        ("tokenizer_engine", fields),
        ("ids_sha256", fields["tokenizer"]),
        ("adds_bos", fields["tokenizer"]),
        ("max_token_id", fields["splits"]["train"]),
    ):
        where.pop(later, None)
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # So that a run of then goes on with its dataset.
    assert parse_manifest(text, path="m").sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_tokenizers_of_two_datasets_are_compared_by_what_both_say_of_them(manifest: Manifest):
    old = manifest.tokenizer
    new = dataclasses.replace(old, ids_sha256="1" * 64)
    saved_again = dataclasses.replace(new, sha256={"tokenizer.json": "2" * 64})
    assert old.differences(old) == old.differences(new) == new.differences(old) == new.differences(saved_again) == []
    assert old.differences(saved_again) == ["tokenizer.json"]
    assert new.differences(dataclasses.replace(new, ids_sha256="3" * 64)) == ["reading of it"]
    with_bos, without = (dataclasses.replace(saved_again, adds_bos=adds_bos) for adds_bos in (True, False))
    assert with_bos.differences(with_bos) == with_bos.differences(new) == []
    assert with_bos.differences(without) == ["BOS before texts"]


def test_its_digest_covers_every_shard(manifest: Manifest):
    split = manifest.splits["train"]
    altered = dataclasses.replace(split, shards=[dataclasses.replace(split.shards[0], sha256="1" * 64)])
    assert dataclasses.replace(manifest, splits={"train": altered}).sha256 != manifest.sha256


def test_the_ledger_balances_only_if_every_row_is_accounted_for():
    assert Ledger(rows_in=3, pairs_out=2, drops={"a": 1}).balances()
    assert not Ledger(rows_in=3, pairs_out=2, drops={}).balances()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99, this version of oddsmill reads 1 and 2"),
        ({"surprise": 1}, "damaged .*surprise is no field"),
        ({"ledger": {"rows_in": 1}}, "damaged .*ledger.pairs_out is missing"),
        ({"splits": [1]}, r"damaged .*splits=\[1\]: must be an object"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(manifest: Manifest, change: dict, message: str):
    text = json.dumps(json.loads(manifest.to_json()) | change)
    with pytest.raises(Refused, match=message):
        parse_manifest(text, path="m")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_what_is_no_manifest_is_refused(text: str):
    with pytest.raises(Refused, match="m is damaged"):
        parse_manifest(text, path="m")


def test_a_folder_without_a_manifest_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(Refused, match="no such folder; preprocess first"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(Refused, match="preprocessing did not finish there"):
        read_manifest(tmp_path)


def refusal_or_manifest(content: bytes) -> Manifest | str:
    try:
        return parse_manifest(content, path="m")
    except Refused as refused:
        assert str(refused).startswith(("m is damaged (", "m: schema version"))  # noqa: PT017
        return str(refused)


def test_an_altered_manifest_is_refused_by_name_or_reads_as_it_did(manifest: Manifest):
    """Never with a traceback, and never as another dataset: 300 alterations of values, 100 of bytes."""
    text = manifest.to_json()
    alterations = [(what, json.dumps(fields).encode()) for what, fields in altered(json.loads(text), 300, seed=1)]
    read = []
    for what, content in [*alterations, *broken_texts(text, 100, seed=2)]:
        found = refusal_or_manifest(content)
        if not isinstance(found, str):
            assert found == manifest, what
            read.append(what)
    assert len(read) < 20, read  # those that take away its digest, or change white space


def test_a_manifest_that_was_altered_with_its_digest_holds_no_value_that_a_reader_trips_over(manifest: Manifest):
    fields = json.loads(manifest.to_json())
    del fields["manifest_sha256"]
    for what, changed in altered(fields, 600, seed=3):
        found = refusal_or_manifest(json.dumps(changed).encode())
        if isinstance(found, str):
            continue
        # What a reader counts on: types, bounds, sums.
        assert parse_manifest(found.to_json(), path="m") == found, what
        assert 2 <= found.settings["max_length"] <= found.row_length <= 1 << 24
        assert found.ledger.balances() and found.ledger.pairs_out == found.splits["train"].pairs == 2
        assert [shard.name for shard in found.splits["train"].shards] == ["train-00000-of-00001.arrayrecord"]
        assert len(found.tokenizer.sha256["tokenizer.json"]) == 64


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("row_length", "16", 'row_length="16": must be a whole number from 2 to 16777216'),
        ("row_length", True, "row_length=true: must be a whole number"),
        ("row_length", 16.0, "row_length=16.0: must be a whole number"),
        ("row_length", 2**40, "row_length=1099511627776: must be a whole number from 2 to 16777216"),
        ("splits.train.rows", -1, "splits.train.rows=-1: must be a whole number of at least 0"),
        ("splits.train.rows", 2**53, "splits.train.rows=9007199254740992: must be a whole number of at least 0"),
        ("splits.train.rows", 2, "splits.train.rows=2: the shards have 1 records"),
        ("splits.train.shards", {}, r"splits.train.shards=\{\}: must be a list"),
        ("splits.train.shards.0.sha256", "0", r'splits.train.shards\[0\].sha256="0": must be 64 hexadecimal'),
        ("splits.train.shards.0.name", "../train-00000-of-00001.arrayrecord", r"name=.*must be a name such as"),
        ("splits.train.shards.0.name", "/x", r"name=.*must be a name such as"),
        ("splits.train.shards.0.name", "train-00001-of-00001.arrayrecord", "must be train-00000-of-00001"),
        ("splits.train.shards.0.name", "eval-00000-of-00001.arrayrecord", "must be train-00000-of-00001"),
        ("splits.train.length_histograms.prompt", {"1e400": 2}, 'prompt="1e400": must be a length in digits'),
        ("splits.train.length_histograms.prompt", {"3": 2}, "prompt.3: must be a power of two below 32"),
        ("splits.train.max_token_id", 9, "max_token_id=9: must be below vocab_size=9"),
        ("tokenizer.turn_end", [10], "tokenizer.turn_end=10: must be below vocab_size=9"),
        ("tokenizer.sha256", {"../x": "0" * 64}, "tokenizer.sha256=\"../x\": must be the name of a tokenizer's file"),
        ("ledger.pairs_out", 3, "the ledger does not balance"),
        ("settings.max_length", None, "settings.max_length=null: must be a whole number from 2 to row_length=16"),
        ("splits", {"test": 1}, 'splits="test": must be train or eval'),
        ("schema_version", [1], r"schema_version=\[1\]: must be a whole number"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_what_it_must_be(manifest: Manifest, path: str, value: Any, problem: str):
    fields = json.loads(manifest.to_json())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    reduce(getitem, parents, fields)[last] = value
    with pytest.raises(Refused, match=rf"^m is damaged \(.*{problem}.*run the preprocessing again$"):
        parse_manifest(json.dumps(fields), path="m")


def test_one_altered_byte_is_found(manifest: Manifest):
    text = manifest.to_json()
    for before, after in (
        ('"tool_version": "1"', '"tool_version": "2"'),
        ('"seed": 0', '"seed": 1'),
        ("group", "grout"),
    ):
        assert before in text
        with pytest.raises(Refused, match="it was altered: its content has the sha256"):
            parse_manifest(text.replace(before, after), path="m")


def test_a_file_that_is_too_large_to_be_a_manifest_is_not_read(tmp_path: Path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(Refused, match=r"is damaged \(it has 104,857,600 bytes, more than the 67,108,864"):
        read_manifest(tmp_path)
