"""The real input of the acceptance lines: HH-RLHF with the tokenizer of Qwen2, and real tokenizers' rules."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.engines.choice import choose_engine
from oddsmill.schemas.engines.flat import flatten
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import read_manifest

HH = "data/hh-rlhf-harmless/test.rows0-1599.jsonl.gz"


def test_hh_is_accounted_for_row_by_row(shared: Path, run: Callable, command: Callable, capsys):
    result = run(
        "out",
        shared / HH,
        tokenizer=str(shared / "data/tokenizers/qwen2"),
        max_length=512,
    )
    ledger = result.manifest["ledger"]
    # The data's README: 4 rows have a blank answer, in 1 the dialogues differ before the last turn.
    assert ledger["drops"].items() >= {"empty_answer": 4, "no_common_prompt": 1}.items()
    assert "prompt_too_long" not in ledger["drops"]
    assert 1600 == ledger["rows_in"] == ledger["pairs_out"] + sum(ledger["drops"].values())
    assert result.manifest["settings"]["source"]["format"] == "transcript"
    assert result.manifest["splits"]["train"]["padding_share"] < 0.01
    assert command("verify", result.folder)[0] == 0
    for pair in result.pairs(capsys):
        assert len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= 512


TRAINED = ["llama3ish-bos", "qwen2ish-nobos", "gpt2ish-boseqeos", "spmish-bos"]
REAL = ["llama-3", "qwen2", "phi-3-mini", "minimind-chatml"]


@pytest.mark.parametrize("name", [*TRAINED, *REAL])
def test_ids_equal_trl_where_no_merge_crosses_the_boundary_and_nothing_is_cut(shared: Path, name: str):
    golden = shared / "golden/tokenization"
    rows = [json.loads(line) for line in gzip.decompress((golden / "rows.jsonl.gz").read_bytes()).split(b"\n") if line]
    outs = [
        json.loads(line) for line in gzip.decompress((golden / f"{name}.jsonl.gz").read_bytes()).split(b"\n") if line
    ]
    # TRL begins every text with BOS, whether the tokenizer does or not.
    tokenizer = load_tokenizer(shared / ("data" if name in REAL else "golden") / "tokenizers" / name, add_bos="texts")
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", max_length=4096)
    usable = [
        (row, out["out"]["C6"])
        for row, out in zip(rows, outs, strict=True)
        if all(row[side].strip() for side in ("prompt", "chosen", "rejected"))
    ]
    pairs = [PreferencePair(row["prompt"], row["chosen"], row["rejected"]) for row, _ in usable]
    compared = 0
    for (row, trl), ids in zip(usable, tokenize_batch(pairs, tokenizer, OURS, config), strict=True):
        if isinstance(ids, Dropped) or ids.boundary_merged or "error" in trl:
            continue
        if max(len(trl["chosen_input_ids"]), len(trl["rejected_input_ids"])) >= 512:
            continue  # C6 cuts at 512
        assert trl["prompt_input_ids"] == ids.prompt.tolist(), row["id"]
        for side in ("chosen", "rejected"):
            answer = getattr(ids, side)
            # TRL looks at the last token alone: where white space follows EOS, it doubles it, and we do not.
            doubled = [tokenizer.eos_id] if answer[-1] != tokenizer.eos_id else []
            assert trl[f"{side}_input_ids"] == (ids.prompt + answer).tolist() + doubled, row["id"]
        compared += 1
    assert compared > 150


def texts_of(value: Any) -> Iterator[str]:
    """Yields the strings in a row."""
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts_of(each)


@pytest.mark.parametrize("name", ["minimind-chatml", "phi-3-mini"])
def test_both_engines_give_the_same_ids_of_real_texts(shared: Path, name: str):
    tokenizer = Tokenizer(shared / "data/tokenizers" / name)
    rows = gzip.decompress((shared / HH).read_bytes()).splitlines()[:100]
    chinese = json.loads(gzip.decompress((shared / "data/llamafactory-dpo-demo/dpo_zh_demo.json.gz").read_bytes()))
    texts = [text for row in [*map(json.loads, rows), *chinese[:100]] for text in texts_of(row)]
    tokenizer.use_engine(choose_engine(tokenizer, "fastokens", texts[:50]))
    assert tokenizer.encode_flat(texts) == flatten(tokenizer.encode_batch(texts)) and len(texts) > 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3", "minimind-chatml", "phi-3-mini", "phi-3-vision-bos", "qwen2"])
def test_both_engines_make_the_same_bytes_of_all_real_data(shared: Path, run: Callable, name: str):
    made = 0
    for path in sorted((shared / "data").rglob("*.json*.gz")):
        outcomes: list[Any] = []
        for engine in ("fastokens", "tokenizers"):
            try:
                result = run(
                    f"{path.stem}-{engine}",
                    path,
                    tokenizer=str(shared / "data/tokenizers" / name),
                    tokenizer_engine=engine,
                    max_drop_share=1.0,
                    dataset_num_proc=1,
                )
            except Refused as refused:  # unpaired rows, or messages for a tokenizer without a template
                outcomes.append(str(refused).replace(engine, ""))
                continue
            manifest = read_manifest(result.folder)
            assert manifest.tokenizer_engine == engine
            outcomes.append((manifest.sha256, result.rejects))
            made += 1
        assert outcomes[0] == outcomes[1], path
    assert made >= 8
