import dataclasses
import json
from pathlib import Path

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import (
    Ledger,
    Manifest,
    Shard,
    SplitSummary,
    TokenizerSummary,
    check_shards,
    damaged_shards,
    file_sha256,
    parse_manifest,
    read_manifest,
)


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
        settings={"seed": 0},
        tokenizer=tokenizer,
        source_fingerprint="ab",
        row_length=16,
        splits={"train": split},
        ledger=Ledger(rows_in=3, pairs_out=2, drops={"empty_answer": 1}),
        counts={"boundary_merged": 0},
        writer_options="group_size:1",
    )


def test_a_manifest_comes_back_from_its_text(manifest: Manifest):
    assert parse_manifest(manifest.to_json(), path="m") == manifest
    split = dataclasses.replace(manifest.splits["train"], unscored={"chosen": 1, "rejected": 0})
    of_turns = dataclasses.replace(manifest, schema_version=2, splits={"train": split})
    assert parse_manifest(of_turns.to_json(), path="m") == of_turns
    assert "unscored" in of_turns.to_json() and "unscored" not in manifest.to_json()  # as before there were any
    assert parse_manifest(manifest.to_json(), path="m").sha256 == manifest.sha256


def test_the_text_of_an_earlier_version_s_manifest_stays_the_same(manifest: Manifest):
    fields = json.loads(manifest.to_json())
    for later, where in (
        ("not_read", fields),
        ("ids_sha256", fields["tokenizer"]),
        ("adds_bos", fields["tokenizer"]),
        ("max_token_id", fields["splits"]["train"]),
    ):
        where.pop(later, None)
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert parse_manifest(text, path="m").to_json() == text  # so that a run of then goes on with its dataset


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
        ({"surprise": 1}, "damaged .*surprise"),
        ({"ledger": {"rows_in": 1}}, "damaged"),
        ({"splits": [1]}, "damaged"),
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


def test_a_missing_a_cut_and_an_altered_shard_are_each_found(manifest: Manifest, tmp_path: Path):
    shard = tmp_path / manifest.splits["train"].shards[0].name
    check_shards(tmp_path, manifest)
    shard.write_bytes(b"ROWS")
    assert not list(damaged_shards(tmp_path, manifest, digests=False))
    with pytest.raises(Refused, match=r"was altered.*Run the preprocessing"):
        check_shards(tmp_path, manifest)
    shard.write_bytes(b"row")
    with pytest.raises(Refused, match="has 3 bytes, the manifest says 4"):
        check_shards(tmp_path, manifest)
    shard.unlink()
    with pytest.raises(Refused, match="is missing"):
        check_shards(tmp_path, manifest)
