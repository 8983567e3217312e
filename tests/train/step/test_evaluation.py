"""Evaluation: the same numbers for any batching, those of the dense reference, and accuracies of groups by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddsmill.schemas.provenance import provenance_path
from oddsmill.train.data.provenance import place_of_each, read_places, short_names, source_of_each
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.loss.pairs import denominators, metrics
from oddsmill.train.step.evaluation import Evaluation, summary
from tests.datasets import packed, random_pairs, write_dataset
from tests.train.decoders import VOCAB_SIZE, batch_of, decoder_config, dense_loss, objective_of, split_decoder

ROW_LENGTH, BETA = 24, 0.3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows of one to several pairs in two shards; beside them the files that say where each pair comes from."""
    folder = tmp_path_factory.mktemp("data") / "rows"
    rows = packed(random_pairs(np.random.default_rng(0), 40, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    splits = {"train": rows[:2], "eval": rows[2:]}
    manifest = write_dataset(folder, splits, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE, shards=2)
    (folder / "provenance").mkdir()
    first = 0
    for shard in manifest.splits["eval"].shards:
        own = [pair.id for row in splits["eval"][first : first + shard.records] for pair in row]
        first += shard.records
        files = ["raw/helpful.jsonl" if pair % 3 else "raw/harmless.jsonl" for pair in own]
        table = {"id": pa.array(own, pa.uint64()), "file": files, "file_row": list(range(len(own)))}
        pq.write_table(pa.table(table), provenance_path(str(folder), shard.name))
    return str(folder), manifest, splits["eval"]


def test_no_batch_size_changes_a_metric_and_the_dense_reference_agrees(dataset):
    folder, manifest, rows = dataset
    definition, params = split_decoder(decoder_config(), jnp.float64)
    options = {"beta": BETA, "nll_scope": "full"}
    objective = objective_of(definition, **options, max_pairs=1)  # the split's is another
    found = [
        Evaluation(objective, data=folder, manifest=manifest, split="eval", batch_size=size)(params) for size in (1, 4)
    ]
    assert len(rows) % 4  # the last batch is filled up
    batch = batch_of(rows, ROW_LENGTH)
    _, sums = dense_loss(definition, params, batch, **options, max_pairs=max(map(len, rows)))
    expected = metrics(sums, denominators(batch["branch"], batch["segment"], "full"), objective.preference)
    for values in found:
        assert values.keys() == found[0].keys()
        for name, value in values.items():
            exact = "accuracies" in name or "num_pairs" in name
            assert value == pytest.approx(found[0][name], rel=0 if exact else 1e-12, abs=1e-13), name
        for name, value in expected.items():
            assert values[f"eval/{name}"] == pytest.approx(float(value), rel=1e-11, abs=1e-12), name
    assert found[0]["eval/num_pairs"] == sum(map(len, rows))
    by_source = [name for name in found[0] if name.startswith("eval/rewards/accuracies/source/")]
    assert by_source == [f"eval/rewards/accuracies/source/{name}.jsonl" for name in ("harmless", "helpful")]
    counted = [found[0][name.replace("rewards/accuracies", "num_pairs")] for name in by_source]
    assert counted == [
        sum(pair.id % 3 == 0 for row in rows for pair in row),
        sum(pair.id % 3 > 0 for row in rows for pair in row),
    ]


def pairs_with(**changes):
    count = len(next(iter(changes.values())))
    columns = {name: np.array(column, float) for name, column in changes.items()}
    columns["accurate"] = (columns["chosen_logp"] > columns["rejected_logp"]).astype(float)
    others = (
        "nll", "nll_tokens", "odds_ratio_loss", "log_odds_ratio", "clamped", "prompt_tokens", "chosen_tokens",
        "rejected_tokens",
    )  # fmt: skip
    ids = {"pair_ids": np.arange(count, dtype=np.uint64)}
    return {name: np.ones(count) for name in others} | ids | columns


def test_accuracy_of_groups_by_hand():
    lengths = [(1, 66), (1, 65), (1, 18), (1, 17), (17, 1), (18, 1), (65, 1), (66, 1)]
    chosen_tokens, rejected_tokens = zip(*lengths, strict=True)
    #            -65 | -64  -17 | -16  +16 | +17  +64 | +65
    accurate = [1, 0, 1, 1, 1, 0, 0, 1]
    pairs = pairs_with(
        chosen_logp=[-1.0] * 8,
        rejected_logp=[-1.5 if right else -0.5 for right in accurate],
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    found = summary(pairs, Orpo(beta=BETA), list("aabbbbbb"))
    groups = {
        "length_difference/below_-64": (1, 1), "length_difference/-64_to_-17": (0.5, 2),
        "length_difference/-16_to_16": (1, 2), "length_difference/17_to_64": (0, 2),
        "length_difference/above_64": (1, 1), "source/a": (0.5, 2), "source/b": (4 / 6, 6),
    }  # fmt: skip
    for name, (accuracy, count) in groups.items():
        assert (found[f"rewards/accuracies/{name}"], found[f"num_pairs/{name}"]) == (accuracy, count)
    assert found["rewards/accuracies"] == 5 / 8
    assert len([name for name in found if name.startswith("num_pairs/")]) == len(groups)


def test_a_single_source_and_a_crowd_of_them_have_no_metric_of_their_own():
    pairs = pairs_with(chosen_logp=[-1.0] * 40, rejected_logp=[-2.0] * 40)
    for sources in ([""] * 40, ["one"] * 40, [str(pair) for pair in range(40)]):
        assert not [name for name in summary(pairs, Orpo(beta=BETA), sources) if "source" in name]


def test_equal_pairs_of_two_files_count_under_both(tmp_path):
    """Pairs of equal texts have one id; without dedup all of them are kept."""
    first, second = random_pairs(np.random.default_rng(0), 2, vocab_size=VOCAB_SIZE)
    stored = [first, second, first, first]
    splits = {"eval": [[pair] for pair in stored]}
    manifest = write_dataset(tmp_path / "rows", splits, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE, shards=2)
    (tmp_path / "rows" / "provenance").mkdir()
    files = ["a.jsonl", "a.jsonl", "b.jsonl", "a.jsonl"]
    for shard, part in zip(manifest.splits["eval"].shards, (slice(2), slice(2, 4)), strict=True):
        ids = pa.array([pair.id for pair in stored[part]], pa.uint64())
        table = pa.table({"id": ids, "file": files[part], "file_row": [0, 1, 2, 3][part]})
        pq.write_table(table, provenance_path(str(tmp_path / "rows"), shard.name))
    places, ids = read_places(str(tmp_path / "rows"), manifest, "eval"), [pair.id for pair in stored]
    assert source_of_each(ids, places) == files
    assert place_of_each([*ids, 99], places) == [*zip(files, range(4), strict=True), None]


def test_names_of_files_are_as_short_as_tells_them_apart():
    assert short_names({"gs://b/x/part.jsonl", "gs://b/y/part.jsonl"}) == {
        "gs://b/x/part.jsonl": "x/part.jsonl",
        "gs://b/y/part.jsonl": "y/part.jsonl",
    }
    assert short_names({"/data/a.jsonl", "/data/b.jsonl"}) == {"/data/a.jsonl": "a.jsonl", "/data/b.jsonl": "b.jsonl"}
