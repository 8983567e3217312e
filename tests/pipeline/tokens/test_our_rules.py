import json
import re
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds, PreferencePair, chat_pair
from oddsmill.pipeline.tokens.our_rules import add_special_tokens, split_at_boundary
from oddsmill.pipeline.tokens.text_rules import OURS, TRL, TextRules
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import copy_tokenizer, load_for_run, load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped

B, E, S, T = 1, 2, 3, 4  # BOS, EOS, a token of white space, the end of a turn


def specials(bos_id: int | None = B) -> Tokenizer:
    ids = {"bos_id": bos_id, "adds_bos": bos_id is not None, "eos_id": E, "answer_ends": frozenset({E, T})}
    tokenizer = SimpleNamespace(**ids, is_space=lambda token: token == S)
    tokenizer.lacks_bos = lambda prompt: Tokenizer.lacks_bos(cast(Tokenizer, tokenizer), prompt)
    return cast(Tokenizer, tokenizer)


def split(*encodings: list[int], has_bos: bool = False) -> PairIds:
    return split_at_boundary(*(array("i", ids) for ids in encodings), has_bos=has_bos)


def sides(ids: PairIds) -> tuple[list[int], list[int], list[int]]:
    return ids.prompt.tolist(), ids.chosen.tolist(), ids.rejected.tolist()


# fmt: off
def test_where_no_token_spans_the_boundary_the_prompt_is_the_prompt():
    ids = split([10, 11], [10, 11, 20, 21],
                          [10, 11, 30])
    assert sides(ids) == ([10, 11], [20, 21], [30])
    assert not ids.boundary_merged


def test_a_token_that_spans_the_boundary_goes_to_the_answers_of_both_sides():
    ids = split([10, 11, 12], [10, 11, 99, 21],
                              [10, 11, 12, 30])
    assert sides(ids) == ([10, 11], [99, 21], [12, 30])
    assert ids.boundary_merged


def test_an_answer_that_eats_the_prompts_last_tokens_is_shorter_than_it():
    ids = split([10, 11, 12], [10, 99],
                              [10, 11, 12, 30])
    assert sides(ids) == ([10], [99], [11, 12, 30])
    assert ids.boundary_merged
# fmt: on


def test_a_side_without_a_token_of_its_own_is_dropped():
    with pytest.raises(Dropped, match="empty_answer: chosen has no token"):
        split([10, 11], [10, 11], [10, 11, 30])
    with pytest.raises(Dropped, match="empty_answer: rejected has no token"):
        split([10, 11], [10, 11, 30], [10, 11])
    with pytest.raises(Dropped, match="no_common_prompt: the two sides share no token"):
        split([10], [99], [10, 30])
    assert sides(split([10], [99], [10, 30], has_bos=True)) == ([], [99], [10, 30])


@pytest.mark.parametrize(
    ("prompt", "bos_id", "expected"),
    [([10], B, [B, 10]), ([B, 10], B, [B, 10]), ([10], None, [10]), ([], B, [B]), ([10, B], B, [B, 10, B])],
)
def test_bos_stands_once_at_the_head(prompt: list[int], bos_id: int | None, expected: list[int]):
    ids = PairIds(*(array("i", side) for side in (prompt, [20], [30])))
    assert sides(add_special_tokens(ids, specials(bos_id), is_chat=False)) == (expected, [20, E], [30, E])
    assert sides(add_special_tokens(ids, specials(bos_id), is_chat=True)) == (prompt, [20, E], [30, E])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([20], [20, E]),
        ([20, E], [20, E]),
        ([20, E, S], [20, E, S]),
        ([20, E, S, S], [20, E, S, S]),
        ([20, S], [20, S, E]),
        ([E, 20], [E, 20, E]),
        ([S], [S, E]),
        ([E], [E]),
        ([20, T], [20, T]),
        ([20, T, S], [20, T, S]),
        ([T, 20], [T, 20, E]),
    ],
)
def test_eos_stands_once_at_the_end(answer: list[int], expected: list[int]):
    ids = PairIds(*(array("i", side) for side in ([10], answer, [30])))
    assert sides(add_special_tokens(ids, specials(), is_chat=True)) == ([10], expected, [30, E])


SAME = "word " * 60


def tokenized(folder: Path, rules: TextRules, *texts: str, **changes: Any) -> PairIds | str:
    """The ids of a pair, or the detail of its drop, which must be that of equal answers."""
    config = PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)
    (ids,) = tokenize_batch([PreferencePair(*texts)], load_tokenizer(folder), rules, config)
    if isinstance(ids, PairIds):
        return ids
    assert ids.reason == "identical_answers"
    return ids.detail


@pytest.mark.parametrize(
    ("chosen", "rejected", "limits", "expected"),
    [
        (SAME + "right", SAME + "wrong", {"max_length": 64}, "in the 5[0-9] tokens that fit; a higher --max_length"),
        (SAME + "a", SAME + "b", {"max_completion_length": 9}, "the same in the 9 tokens .* --max_completion_length"),
        (SAME + "a", SAME + "b", {}, None),
        # One goes on where the other ends, or ends where the other goes on.
        ("word", "word word", {"max_length": 64}, None),
        (SAME, SAME + "and on", {"max_length": 64}, "a higher --max_length keeps where they part"),
    ],
)
def test_answers_that_are_cut_to_the_same_tokens_are_dropped(
    tokenizer_folder: Path, chosen: str, rejected: str, limits: dict[str, int], expected: str | None
):
    found = tokenized(tokenizer_folder, OURS, "Count. ", chosen, rejected, **limits)
    if expected is None:
        assert isinstance(found, PairIds)
        assert found.chosen != found.rejected
    else:
        assert re.search(expected, str(found))


def test_the_answers_of_the_case_are_the_same_once_they_are_cut(tokenizer_folder: Path):
    texts = json.loads((Path(__file__).parents[2] / "cases/11/cut.jsonl").read_text())
    sides = [texts[name] for name in ("prompt", "chosen", "rejected")]
    assert "are the same in the" in str(tokenized(tokenizer_folder, OURS, *sides, max_length=64))
    whole = tokenized(tokenizer_folder, OURS, *sides)
    assert isinstance(whole, PairIds)
    assert whole.chosen != whole.rejected


@pytest.mark.parametrize(
    ("tokenizer", "sides", "expected"),
    [
        ("qwen2", ("Caf\u00e9.", "Cafe\u0301."), "chosen and rejected are the same text in two forms of Unicode"),
        # This tokenizer writes a space as the character U+2581.
        ("phi-3-mini", ("No way.", "No\u2581way."), "the tokenizer makes the same tokens of the two texts"),
    ],
)
def test_other_texts_of_the_same_tokens_are_dropped_and_trls_rules_keep_what_trl_keeps(
    shared: Path, tokenizer: str, sides: tuple[str, str], expected: str
):
    folder = shared / "data/tokenizers" / tokenizer
    assert tokenized(folder, OURS, "Where? ", *sides) == expected
    ids = tokenized(folder, TRL, "Where? ", *sides, compat="trl")
    assert isinstance(ids, PairIds)
    assert ids.chosen == ids.rejected


@pytest.mark.parametrize(
    ("name", "settings", "text", "dialogue"),
    [
        ("phi-3-mini", {}, "▁A", "<|user|>"),
        ("phi-3-mini", {"add_bos": True}, "<s>", "<s>"),
        ("phi-3-mini", {"compat": "trl"}, "<s>", "<s>"),
        ("phi-3-vision-bos", {}, "<s>", "<|user|>"),
        ("phi-3-vision-bos", {"add_bos": True}, "<s>", "<s>"),
        ("phi-3-vision-bos", {"add_bos": False}, "▁A", "<|user|>"),
        ("minimind-chatml", {}, "A", "<|im_start|>"),
        ("minimind-chatml", {"add_bos": True}, "<|im_start|>", "<|im_start|>"),
    ],
)
def test_rows_begin_as_prompts_do_at_inference(
    shared: Path, tmp_path: Path, name: str, settings: dict[str, Any], text: str, dialogue: str
):
    folder = shared / "data/tokenizers" / name
    config = PreprocessConfig(source=SourceConfig(path="x"), tokenizer="t", output="o", **settings)
    question = {"role": "user", "content": "A tree?"}
    sides = [[{"role": "assistant", "content": answer}] for answer in ("Oak.", "Rock.")]
    pairs = [PreferencePair("A tree?", " Oak.", " Rock."), chat_pair([question], *sides)]
    tokenizer = load_for_run(folder, config)
    copy_tokenizer(tokenizer, tmp_path)
    rules = TRL if config.compat else OURS
    for loaded in (tokenizer, load_tokenizer(tmp_path)):  # workers read the copy, which holds the rule
        ids = list(tokenize_batch(pairs, loaded, rules, config))
        assert [loaded.token(each.prompt[0]) for each in ids if isinstance(each, PairIds)] == [text, dialogue]
        assert all(
            each.prompt.count(each.prompt[0]) == 1 for each in ids if isinstance(each, PairIds) and text == "<s>"
        )
