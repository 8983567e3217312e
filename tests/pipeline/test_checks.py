"""The data checks, against a count pair by pair."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.checks import MEANINGS, STORED, count_stored, describe
from schemas.manifest import TokenizerSummary
from schemas.record import Pair, make_row

BOS, EOS = 1, 2


def summary(bos_id: int | None = BOS, eos_id: int = EOS) -> TokenizerSummary:
    return TokenizerSummary(sha256={}, chat_template_sha256=None, bos_id=bos_id, eos_id=eos_id, pad_id=0, vocab_size=50)


def count(*pairs: tuple[list[int], list[int], list[int]], tokenizer: TokenizerSummary | None = None) -> dict[str, int]:
    made = [Pair(prompt=p, chosen=c, rejected=r, id=index) for index, (p, c, r) in enumerate(pairs)]
    return count_stored(make_row(made, row_length=64, pad_id=0, vocab_size=50), tokenizer or summary())


def recount(pairs: list[dict]) -> dict[str, int]:
    """From what `inspect --json` prints, pair by pair."""

    def inside(ids: list[int]) -> bool:
        return EOS in ids[:-1]

    tests = {
        "bos_not_once": lambda p, c, r: p[0] != BOS or [*p, *c, *r].count(BOS) != 1,
        "chosen_ends_in_eos": lambda p, c, r: c[-1] == EOS,
        "rejected_ends_in_eos": lambda p, c, r: r[-1] == EOS,
        "eos_inside_answer": lambda p, c, r: inside(c) or inside(r),
        "chosen_longer": lambda p, c, r: len(c) > len(r),
        "rejected_longer": lambda p, c, r: len(r) > len(c),
    }
    sides = [(pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
    return {name: sum(test(*each) for each in sides) for name, test in tests.items()}


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        (([9], [9, EOS], [9, EOS]), "bos_not_once"),
        (([BOS, BOS], [9, EOS], [9, EOS]), "bos_not_once"),
        (([BOS, 9], [BOS, EOS], [9, EOS]), "bos_not_once"),
        (([9, BOS], [9, EOS], [9, EOS]), "bos_not_once"),
        (([BOS], [EOS, 9, EOS], [9, 9, EOS]), "eos_inside_answer"),
        (([BOS], [9, 9, EOS], [EOS, EOS, EOS]), "eos_inside_answer"),
        (([BOS], [9, 9, EOS], [9, EOS]), "chosen_longer"),
        (([BOS], [9, EOS], [9, 9, EOS]), "rejected_longer"),
    ],
)
def test_a_pair_is_counted_where_the_name_holds_of_it_alone(pair: tuple, name: str):
    clean = ([BOS, 9], [9, EOS], [8, EOS])
    found = count(clean, pair, clean)
    expected = dict.fromkeys(STORED, 0) | {"chosen_ends_in_eos": 3, "rejected_ends_in_eos": 3, name: 1}
    assert found == expected


def test_an_answer_that_was_cut_does_not_end_in_eos():
    found = count(([BOS], [9, 9], [9, EOS]), ([BOS], [9, EOS], [EOS, 9]))
    assert (found["chosen_ends_in_eos"], found["rejected_ends_in_eos"], found["eos_inside_answer"]) == (1, 1, 1)


def test_a_tokenizer_without_bos_or_with_one_that_is_eos_is_not_suspected():
    assert count(([9], [9, EOS], [8, EOS]), tokenizer=summary(bos_id=None))["bos_not_once"] == 0
    assert count(([EOS, 9], [9, EOS], [8, EOS]), tokenizer=summary(bos_id=EOS))["bos_not_once"] == 0


def test_random_rows_are_counted_as_pair_by_pair():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pairs = [tuple(rng.integers(0, 5, rng.integers(1, 5)).tolist() for _ in range(3)) for _ in range(4)]
        named = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair, strict=True)) for pair in pairs]
        assert count(*pairs) == recount(named)


def test_the_manifest_holds_the_counts_of_the_stored_pairs_on_any_number_of_workers(
    run: Callable, write_rows: Callable, triples: Callable, capsys: pytest.CaptureFixture[str]
):
    rows = triples(60)
    rows[3]["chosen"] = " Yes.</s> And on."
    rows[4]["prompt"] = "<s>" + rows[4]["prompt"] + "<s>"
    path = write_rows("rows.jsonl", [*rows, rows[0]])
    one = run("one", path, num_shards=3, eval_share=0.2)
    two = run("two", path, num_shards=3, eval_share=0.2, beam=("--direct_num_workers=2",))
    assert one.manifest["counts"] == two.manifest["counts"]
    counts = one.manifest["counts"]
    assert set(counts) <= set(MEANINGS)
    assert {name: counts[name] for name in STORED} == recount(one.pairs(capsys))
    assert (counts["eos_inside_answer"], counts["bos_not_once"], counts["exact_duplicates"]) == (1, 1, 1)
    assert "check      BOS exactly once in 60 of 61 pairs" in one.lines
    assert any("1 pairs that repeat the texts of another; --dedup=exact drops them" in line for line in one.lines)


def test_people_are_not_told_of_bos_where_there_is_none():
    counts = dict.fromkeys(MEANINGS, 0)
    assert not any("BOS" in line for line in describe(counts, 5, bos_id=None))
    assert "BOS exactly once in 5 of 5 pairs" in describe(counts, 5, bos_id=1)


@pytest.mark.parametrize("name", [*STORED, "exact_duplicates"])
def test_verify_finds_a_count_that_is_not_that_of_the_shards(
    run: Callable, write_rows: Callable, triples: Callable, command: Callable, name: str
):
    folder = run("out", write_rows("rows.jsonl", triples(12))).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    number = manifest["counts"][name]
    manifest["counts"][name] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = command("verify", folder)
    assert code == 2
    assert f"counts: {name} is {number + 1} in the manifest, {number} in the shards" in err
