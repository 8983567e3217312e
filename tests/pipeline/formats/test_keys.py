import hashlib
import json
from typing import Any, NamedTuple

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.keys import fingerprint, pair_id, place_pairs, prompt_id
from oddsmill.pipeline.formats.pairs import ChatPair, Pair, PreferencePair, chat_pair
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import Split

SHARDS: dict[Split, int] = {"train": 4, "eval": 1}


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def pairs(count: int) -> list[PreferencePair]:
    return [PreferencePair(f"prompt {number // 2}", f"chosen {number}", "rejected") for number in range(count)]


class Place(NamedTuple):
    split: Split
    shard: int
    rank: int


def where(pair: PreferencePair, settings: PreprocessConfig, origin: tuple[int, int] = (0, 0)) -> Place:
    places = place_pairs([pair], [Origin(*origin)], settings, SHARDS)
    return Place(*places.shard(0), int(places.ranks[0]))


def test_an_id_is_of_the_texts_and_of_where_they_are_divided():
    assert pair_id(PreferencePair("a", "b", "c")) == pair_id(PreferencePair("a", "b", "c"))
    texts = [("a", "b", "c"), ("ab", "", "c"), ("a", "c", "b"), ("", "ab", "c"), ("a", "bc", "")]
    assert len({pair_id(PreferencePair(*text)) for text in texts}) == len(texts)
    assert 0 <= pair_id(PreferencePair("a", "b", "c")) < 1 << 64


def test_a_prompt_is_in_one_split_only():
    splits: dict[str, set[str]] = {}
    for pair in pairs(2000):
        splits.setdefault(pair.prompt, set()).add(where(pair, config(eval_share=0.3)).split)
    assert all(len(found) == 1 for found in splits.values())


def test_the_eval_split_has_about_its_share():
    found = [where(pair, config(eval_share=0.3)).split for pair in pairs(4000)]
    assert 0.27 < found.count("eval") / len(found) < 0.33
    assert {where(pair, config(eval_share=0.0)).split for pair in pairs(500)} == {"train"}
    assert {where(pair, config(eval_share=1.0)).split for pair in pairs(500)} == {"eval"}


def test_shards_are_filled_evenly():
    shards = [where(pair, config(eval_share=0.0)).shard for pair in pairs(4000)]
    assert all(850 < shards.count(shard) < 1150 for shard in range(4))


def test_place_depends_on_texts_and_seed_but_not_on_the_origin():
    first, second = (where(pairs(1)[0], config(), origin) for origin in (Origin(0, 0), Origin(3, 99)))
    assert first == second
    assert first != where(pairs(1)[0], config(seed=1))


def test_without_shuffle_the_order_is_that_of_files_and_rows():
    settings = config(shuffle=False, eval_share=0.0)
    origins = [Origin(0, 5), Origin(0, 6), Origin(1, 0), Origin(10, 2)]
    places = [where(pair, settings, origin) for pair, origin in zip(pairs(4), origins, strict=True)]
    assert sorted(places) == places
    assert {(found.split, found.shard) for found in places} == {("train", 0)}


def test_fingerprints_differ_by_row():
    assert fingerprint(b"a") != fingerprint(b"b")
    assert 0 <= fingerprint(b"a") < 1 << 128


def plain_hash(*texts: str | bytes, size: int, seed: int = 0, use: bytes = b"id") -> int:
    """The rule in one line: a keyed hash of texts, each behind its length."""
    parts = [text.encode() if isinstance(text, str) else text for text in texts]
    state = hashlib.blake2b(digest_size=size, key=seed.to_bytes(8), person=use)
    state.update(b"".join(len(part).to_bytes(8) + part for part in parts))
    return int.from_bytes(state.digest())


def in_key_order(text: str) -> str:
    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(value[key]) for key in sorted(value)}
        return [ordered(part) for part in value] if isinstance(value, list) else value

    value = ordered(json.loads(text))
    for message in value if isinstance(value, list) else []:
        first = {key: message.pop(key) for key in ("role", "content") if key in message}
        rest = dict(message)
        message.clear()
        message.update(first | rest)
    return json.dumps(value, ensure_ascii=False)


def plain_place(pair: Pair, origin: Origin, settings: PreprocessConfig) -> tuple[int, int, str, int, int]:
    """The id, the prompt's, the split, the shard and the rank of a pair, each by a hash of its own."""
    texts = list(pair) if isinstance(pair, PreferencePair) else [in_key_order(text) for text in pair]
    identity, of_prompt = plain_hash(*texts, size=8), plain_hash(texts[0], size=8)
    if not settings.shuffle:
        return identity, of_prompt, "train", 0, origin.file * 2**48 + origin.row
    draw = plain_hash(texts[0], size=8, seed=settings.seed, use=b"split")
    split: Split = "eval" if draw < int(settings.eval_share * 2**64) else "train"
    at = plain_hash(identity.to_bytes(8), size=16, seed=settings.seed, use=b"place")
    return identity, of_prompt, split, (at >> 64) % SHARDS[split], at % 2**64


def message_pairs() -> list[ChatPair]:
    """Pairs of messages, whose keys are in one order or another, at every depth."""
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [{"d": 1.5, "c": None}]}}}]
    say = [{"role": "user", "content": "Grüße"}], [{"content": "a", "role": "assistant"}]
    plain = [chat_pair(*say, [{"role": "assistant", "content": end}]) for end in ("b", "\u2028", "a", "")]
    of_tools = {"role": "assistant", "content": None, "name": "n", "tool_calls": calls}
    return [
        *plain,
        chat_pair(say[0], [of_tools], say[1], {"tools": calls, "documents": []}),
        chat_pair([*say[0], of_tools, {"role": "tool", "content": [{"type": "text", "text": "x"}]}], *say),
        chat_pair([{"role": "user", "content": "a", "b": 1, "a": 2}], [{"z": 0, "role": "assistant"}], say[1]),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eval_share": 0.0},
        {"eval_share": 1.0},
        {"eval_share": 0.3, "seed": 7},
        {"shuffle": False, "eval_share": 0.0},
    ],
    ids=str,
)
def test_places_of_a_batch_are_those_of_each_pair_by_itself(settings: dict[str, Any]):
    config_of = config(**settings)
    some = [
        PreferencePair("", "a", "ü"),
        PreferencePair("p" * 3000, "a\0b", "\U0001f600"),
        *pairs(60),
        *message_pairs(),
    ]
    origins = [Origin(number % 3, number * 2**30) for number in range(len(some))]
    places = place_pairs(some, origins, config_of, SHARDS)
    expected = [plain_place(pair, origin, config_of) for pair, origin in zip(some, origins, strict=True)]
    found = zip(
        places.ids.tolist(), places.prompt_ids.tolist(), *zip(*map(places.shard, range(len(some))), strict=True),
        places.ranks.tolist(), strict=True,
    )  # fmt: skip
    assert list(found) == expected
    assert [(pair_id(pair), prompt_id(pair)) for pair in some] == [line[:2] for line in expected]


def test_no_pair_has_no_place():
    assert all(len(column) == 0 for column in place_pairs([], [], config(), SHARDS))


def test_ids_of_pairs_stay_what_they_are():
    """They are in datasets: another value is another id for equal texts."""
    assert pair_id(PreferencePair("a", "b", "c")) == 9815458217686206404
    assert pair_id(message_pairs()[-1]) == 18245718574537300756
    assert fingerprint(b"a") == 278128437788616573341080757229689006485
