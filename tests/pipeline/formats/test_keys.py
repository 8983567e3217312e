from typing import Any

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.keys import Place, fingerprint, pair_id, place
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.manifest import Split

SHARDS: dict[Split, int] = {"train": 4, "eval": 1}


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def pairs(count: int) -> list[PreferencePair]:
    return [PreferencePair(f"prompt {number // 2}", f"chosen {number}", "rejected") for number in range(count)]


def where(pair: PreferencePair, settings: PreprocessConfig, origin: tuple[int, int] = (0, 0)) -> Place:
    return place(pair, pair_id(pair), Origin(*origin), settings, SHARDS)


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
