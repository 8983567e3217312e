"""Drawn rows have a vocabulary that grows as that of their dataset does, and dialogues stay dialogues."""

import random
import re

from bench.many_rows import SIDES, VariedRows, repeat, vary
from bench.preference_texts import as_messages


def dataset(rows: int = 100) -> list[dict[str, str]]:
    """Returns rows of words whose frequency falls as in a language: the nth word comes in proportion to 1 / n."""
    draw, weights = random.Random(0), [1 / rank for rank in range(1, 5001)]
    vocabulary = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in weights]

    def words(count: int) -> str:
        return " ".join(draw.choices(vocabulary, weights, k=count))

    prompts = [
        f"\n\nHuman: {words(30)}\n\nAssistant: {words(20)}\n\nHuman: {words(9)}\n\nAssistant:" for _ in range(rows)
    ]
    return [{"prompt": prompt, "chosen": " " + words(20), "rejected": " " + words(25)} for prompt in prompts]


def words_of(rows: list[dict[str, str]]) -> list[str]:
    return [word for row in rows for side in SIDES for word in re.findall(r"\w+", row[side])]


def test_the_vocabulary_grows_by_heaps_law():
    rows = dataset()
    drawn = vary(rows, 1600)
    assert drawn[: len(rows)] == rows
    words, all_words = words_of(rows), words_of(drawn)
    assert len(words_of(repeat(rows, 1600))) > 0.9 * len(all_words)  # copies have as many words
    expected = len(set(words)) * (len(all_words) / len(words)) ** VariedRows(rows).growth
    assert 0.85 * expected < len(set(all_words)) < 1.05 * expected


def test_the_speakers_of_a_dialogue_stay():
    for drawn, row in zip(vary(dataset(), 1000), dataset() * 10, strict=True):
        messages = as_messages(drawn)["prompt"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert [len(m["content"].split()) for m in messages] == [
            len(m["content"].split()) for m in as_messages(row)["prompt"]
        ]


def test_no_two_drawn_rows_are_equal():
    assert len({row["prompt"] for row in vary(dataset(), 1000)}) == 1000
