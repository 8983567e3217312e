"""Writes datasets by the contract, without the pipeline: what the trainer's tests train on."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.schemas.manifest import Ledger, Manifest, Shard, SplitSummary, TokenizerSummary, file_sha256
from oddsmill.schemas.record import Pair, encode_row, make_row

SIDES = ("prompt", "chosen", "rejected")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the fields of a dataset's manifest, which then is as an earlier version wrote it: without its digest."""
    fields = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(fields)
    fields.pop("manifest_sha256", None)
    (folder / "manifest.json").write_text(json.dumps(fields), encoding="utf-8")


def adopt_tokenizer(folder: Path) -> None:
    """Makes the files that lie in a dataset's `tokenizer/` those that its manifest describes."""
    own = folder / "tokenizer"
    files = {path.relative_to(own).as_posix(): file_sha256(path) for path in own.rglob("*") if path.is_file()}
    edit_manifest(folder, lambda fields: fields["tokenizer"].update(sha256=files))


def random_pairs(rng: np.random.Generator, count: int, *, vocab_size: int, longest: int = 6) -> list[Pair]:
    """Pairs whose sides have 1 to `longest` random tokens."""

    def side() -> list[int]:
        return rng.integers(0, vocab_size, rng.integers(1, longest + 1)).tolist()

    return [Pair(prompt=side(), chosen=side(), rejected=side(), id=index + 1) for index in range(count)]


def with_unscored(rng: np.random.Generator, pair: Pair) -> Pair:
    """Makes a random run of each answer, never all of it, unscored."""

    def run(answer: Sequence[int]) -> list[tuple[int, int]]:
        start, end = sorted(rng.integers(0, len(answer) + 1, 2).tolist())
        return [(start, end)] if start < end and end - start < len(answer) else []

    return dataclasses.replace(pair, unscored_chosen=run(pair.chosen), unscored_rejected=run(pair.rejected))


def packed(pairs: Sequence[Pair], row_length: int) -> list[list[Pair]]:
    """Next-fit packing."""
    rows: list[list[Pair]] = [[]]
    for pair in pairs:
        if sum(map(len, rows[-1])) + len(pair) > row_length:
            rows.append([])
        rows[-1].append(pair)
    return rows


def write_dataset(
    folder: Path,
    splits: Mapping[str, Sequence[Sequence[Pair]]],
    *,
    row_length: int,
    vocab_size: int,
    shards: int = 1,
    eos_id: int = 1,
) -> Manifest:
    """Writes shards, tokenizer folder and manifest of rows (lists of pairs) a split."""
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer_file = folder / "tokenizer" / "tokenizer.json"
    tokenizer_file.write_text(json.dumps({"test": True}))
    summaries = {}
    for split, rows in splits.items():
        written = []
        for shard in range(shards):
            name = f"{split}-{shard:05d}-of-{shards:05d}.arrayrecord"
            mine = rows[shard * len(rows) // shards : (shard + 1) * len(rows) // shards]
            writer = ArrayRecordWriter(str(folder / name), "group_size:1,zstd:3")
            for row in mine:
                writer.write(encode_row(make_row(row, row_length=row_length, pad_id=0, vocab_size=vocab_size)))
            writer.close()
            size = (folder / name).stat().st_size
            written.append(Shard(name=name, records=len(mine), bytes=size, sha256=file_sha256(folder / name)))
        summaries[split] = SplitSummary(
            shards=written,
            rows=len(rows),
            pairs=sum(map(len, rows)),
            tokens={side: sum(len(getattr(pair, side)) for row in rows for pair in row) for side in SIDES},
            padding_share=1 - sum(len(pair) for row in rows for pair in row) / (len(rows) * row_length),
            max_pairs_per_row=max(map(len, rows)),
            truncated=dict.fromkeys(SIDES, 0),
            length_histograms=_length_histograms([pair for row in rows for pair in row]),
        )
    pairs = sum(summary.pairs for summary in summaries.values())
    manifest = Manifest(
        tool_version="test",
        settings={"max_length": row_length},
        tokenizer=TokenizerSummary(
            sha256={"tokenizer.json": file_sha256(tokenizer_file)},
            chat_template_sha256=None,
            bos_id=None,
            eos_id=eos_id,
            pad_id=0,
            vocab_size=vocab_size,
        ),
        source_fingerprint="0",
        row_length=row_length,
        splits=summaries,
        ledger=Ledger(rows_in=pairs, pairs_out=pairs, drops={}),
        counts={},
        writer_options="group_size:1,zstd:3",
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def _length_histograms(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Counts lengths by the power of two at or above them, as the manifest has them."""
    bounds = {side: Counter(str(1 << (len(getattr(pair, side)) - 1).bit_length()) for pair in pairs) for side in SIDES}
    return {side: dict(counts) for side, counts in bounds.items()}
