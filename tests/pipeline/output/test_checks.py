"""The data checks, against a count pair by pair."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds, chat_pair
from oddsmill.pipeline.output.checks import MEANINGS, STORED, count_stored, describe
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer, summarize_tokenizer
from oddsmill.schemas.manifest import TokenizerSummary, read_manifest
from oddsmill.schemas.record import Pair, Truncated, make_row
from tests.datasets import edit_manifest

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
        "bos_not_once": lambda p, c, r: BOS in [*p, *c, *r] and (p[0] != BOS or [*p, *c, *r].count(BOS) != 1),
        "without_bos": lambda p, c, r: BOS not in [*p, *c, *r],
        "chosen_ends_in_eos": lambda p, c, r: c[-1] == EOS,
        "rejected_ends_in_eos": lambda p, c, r: r[-1] == EOS,
        "eos_inside_answer": lambda p, c, r: inside(c) or inside(r),
        "chosen_longer": lambda p, c, r: len(c) > len(r),
        "rejected_longer": lambda p, c, r: len(r) > len(c),
        "identical_ids": lambda p, c, r: c == r,
    }
    sides = [(pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
    return {name: sum(test(*each) for each in sides) for name, test in tests.items()}


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        (([9], [9, EOS], [8, EOS]), "without_bos"),
        (([BOS, BOS], [9, EOS], [8, EOS]), "bos_not_once"),
        (([BOS, 9], [BOS, EOS], [9, EOS]), "bos_not_once"),
        (([9, BOS], [9, EOS], [8, EOS]), "bos_not_once"),
        (([BOS], [EOS, 9, EOS], [9, 9, EOS]), "eos_inside_answer"),
        (([BOS], [9, 9, EOS], [EOS, EOS, EOS]), "eos_inside_answer"),
        (([BOS], [9, 9, EOS], [9, EOS]), "chosen_longer"),
        (([BOS], [9, EOS], [9, 9, EOS]), "rejected_longer"),
        (([BOS], [9, EOS], [9, EOS]), "identical_ids"),
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


@pytest.mark.parametrize(
    ("unscored", "inside"),
    [
        ((), 1),
        (((2, 3),), 0),
        (((1, 4),), 0),
        (((0, 1), (2, 4)), 0),
        (((3, 4),), 0),  # another turn begins behind it
        (((0, 2),), 1),
        (((0, 1), (4, 5)), 1),
    ],
)
def test_eos_is_looked_for_among_the_tokens_that_a_loss_counts(unscored: tuple, inside: int):
    plain = Pair(prompt=[BOS], chosen=[9, EOS], rejected=[8, EOS], id=1)
    pair = replace(plain, chosen=[9, 9, EOS, 9, 9, EOS], unscored_chosen=unscored)
    row = make_row([plain, pair, plain], row_length=64, pad_id=0, vocab_size=50)
    assert count_stored(row, summary())["eos_inside_answer"] == inside


def test_random_rows_are_counted_as_pair_by_pair():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pairs = [tuple(rng.integers(0, 5, rng.integers(1, 4)).tolist() for _ in range(3)) for _ in range(4)]
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
    assert not any("BOS" in line for line in describe(counts, 5, summary(bos_id=None)))
    assert "BOS exactly once in 5 of 5 pairs" in describe(counts, 5, summary())


START, NEWLINE, END = 3, 4, 5
# As ChatML where EOS ends the turns and BOS begins them; as Phi-3, where another token ends them, and EOS may follow.
CHATML = replace(summary(bos_id=START), turn_end=[EOS, NEWLINE], turn_start_id=START)
PHI = replace(summary(), turn_end=[END, NEWLINE], turn_start_id=START)
CLEAN = dict.fromkeys(STORED, 0) | {"chosen_ends_in_eos": 1, "rejected_ends_in_eos": 1}


@pytest.mark.parametrize(
    ("tokenizer", "pair", "changes"),
    [
        (CHATML, ([START, 9], [9, EOS, NEWLINE], [8, 8, EOS]), {}),
        (CHATML, ([START, 9, EOS, NEWLINE, START, 9], [9, EOS, NEWLINE, NEWLINE], [8, 8, 8, EOS]), {}),
        # another turn in the answer, after a newline or at once
        (CHATML, ([START, 9], [9, EOS, NEWLINE, START, 9, EOS, NEWLINE], [8, EOS, START, 8, 8, EOS, NEWLINE]), {}),
        (CHATML, ([START, 9], [9, EOS, 9, EOS], [8, 8, 8, EOS]), {"eos_inside_answer": 1}),
        (CHATML, ([START, 9], [9, EOS, NEWLINE, EOS], [8, 8, 8, EOS]), {"eos_inside_answer": 1}),
        # the turn that follows is the other side's
        (CHATML, ([START, 9], [9, EOS, 9, EOS], [START, 8, 8, EOS]), {"eos_inside_answer": 1}),
        (CHATML, ([START, 9], [9, 9, EOS, NEWLINE], [8, EOS, NEWLINE, 8]), {"eos_inside_answer": 1, "rejected": 0}),
        (CHATML, ([START, START, 9], [9, EOS], [8, EOS]), {"bos_not_once": 1}),
        (CHATML, ([9, START, 9], [9, EOS], [8, EOS]), {"bos_not_once": 1}),
        (CHATML, ([START], [START, EOS], [START, EOS]), {"identical_ids": 1}),
        (PHI, ([BOS, 9], [9, END, NEWLINE], [8, EOS, 8]), {"eos_inside_answer": 1, "rejected": 0}),
        (PHI, ([BOS, 9], [9, END, NEWLINE, EOS], [8, 8, END, EOS]), {}),
        (PHI, ([BOS, 9], [9, 9, END], [8, NEWLINE, NEWLINE]), {"rejected": 0}),
        (PHI, ([BOS, 9], [NEWLINE], [9]), {"chosen": 0, "rejected": 0}),
    ],
)
def test_tokens_that_mark_turns_are_not_misread(tokenizer: TokenizerSummary, pair: tuple, changes: dict[str, int]):
    found = count(pair, tokenizer=tokenizer)
    names = {"chosen": "chosen_ends_in_eos", "rejected": "rejected_ends_in_eos"}
    expected = CLEAN | {names.get(name, name): number for name, number in changes.items()}
    _, chosen, rejected = map(len, pair)
    assert found == expected | {"chosen_longer": int(chosen > rejected), "rejected_longer": int(rejected > chosen)}


@pytest.mark.parametrize("name", ["llama-3", "minimind-chatml", "phi-3-mini", "phi-3-vision-bos", "qwen2"])
def test_an_answer_of_a_real_template_ends_unless_it_was_cut(shared: Path, name: str):
    folder = shared / "data" / "tokenizers" / name
    tokenizer = load_tokenizer(folder)
    config = PreprocessConfig(source=SourceConfig(path="x"), tokenizer=str(folder), output="x", max_length=64)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    answers = [[turns[1] | {"content": "word " * count}] for count in (1, 3, 99)]
    answers.append([turns[1], *turns])
    pairs = [chat_pair([*turns, turns[0]], answer, [turns[1] | {"content": "No!"}]) for answer in answers]
    for ids in tokenize_batch(pairs, tokenizer, OURS, config):
        assert isinstance(ids, PairIds)
        stored = Pair(prompt=ids.prompt, chosen=ids.chosen, rejected=ids.rejected, id=1)
        row = make_row([stored], row_length=256, pad_id=0, vocab_size=tokenizer.vocab_size)
        found = count_stored(row, summarize_tokenizer(tokenizer))
        assert found["chosen_ends_in_eos"] == (Truncated.CHOSEN not in ids.truncated)
        assert (found["rejected_ends_in_eos"], found["eos_inside_answer"], found["bos_not_once"]) == (1, 0, 0)
        assert found["without_bos"] == name.startswith("phi-3")  # whose templates do not write it


@pytest.mark.parametrize("name", [*STORED, "exact_duplicates"])
def test_verify_finds_a_count_that_is_not_that_of_the_shards(
    run: Callable, write_rows: Callable, triples: Callable, command: Callable, name: str
):
    folder = run("out", write_rows("rows.jsonl", triples(12))).folder
    number = read_manifest(folder).counts[name]
    edit_manifest(folder, lambda fields: fields["counts"].update({name: number + 1}))
    code, _, err = command("verify", folder)
    assert code == 2
    assert f"counts: {name} is {number + 1} in the manifest, {number} in the shards" in err
