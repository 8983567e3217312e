"""Each transform by itself, called as Beam calls it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from apache_beam.pvalue import TaggedOutput

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.output.blocks import open_blocks
from oddsmill.pipeline.output.placing import PLACED_PAIRS
from oddsmill.pipeline.output.rejects import REJECTS
from oddsmill.pipeline.resolved_run import ResolvedRun, resolve_run
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.pipeline.transforms import CountRows, DivideInputs, MakePairs, NumberRows
from oddsmill.schemas.drops import DropReason


@pytest.fixture
def resolved(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> ResolvedRun:
    """A run over five rows, the fourth of which has no answer."""
    rows = triples(5)
    rows[3] = {**rows[3], "chosen": " "}
    config = PreprocessConfig(
        source=SourceConfig(path=str(write_rows("rows.jsonl", rows))),
        eval_share=0,
        tokenizer=str(tokenizer_folder),
        output=str(tmp_path / "out"),
    )
    return resolve_run(config)


def by_tag(elements: Iterable[Any]) -> dict[str, list[Any]]:
    """The elements that a transform gives, by their tag; the main output is under `main`."""
    tagged: dict[str, list[Any]] = {"main": []}
    for element in elements:
        if isinstance(element, TaggedOutput):
            tagged.setdefault(element.tag, []).append(element.value)
        else:
            tagged["main"].append(element)
    return tagged


def make_pairs(resolved: ResolvedRun) -> dict[str, list[Any]]:
    """Returns what the transforms up to `MakePairs` give of all inputs."""
    parts = [part for element in enumerate(resolved.inputs) for part in DivideInputs().process(element)]
    counted = [counted for part in parts for counted in CountRows(resolved).process(part)]
    assert {number for number, _ in counted} == {0}
    numbered = NumberRows(resolved).process((0, [part for _, part in counted]))
    transform = MakePairs(resolved, None, None)
    transform._tokenizer = load_tokenizer(resolved.tokenizer_folder)  # there is no copy of it yet
    transform.start_bundle()
    elements = [element for part in numbered for element in transform.process(part)]
    return by_tag([*elements, *map(without_window, transform.finish_bundle())])


def without_window(element: Any) -> Any:
    """Returns an element of `finish_bundle` as `process` gives it."""
    if isinstance(element, TaggedOutput):
        return TaggedOutput(element.tag, element.value.value)
    return element.value


def test_every_row_is_a_pair_in_a_block_of_its_shard_or_a_reject(resolved: ResolvedRun):
    tagged = make_pairs(resolved)
    ((key, block),) = tagged["main"]
    assert key == ("train", 0)
    with open_blocks(PLACED_PAIRS, [block]) as items:
        assert sorted(items.columns["row"].tolist()) == [0, 1, 2, 4]
    ((file, rejects),) = tagged["rejects"]
    with open_blocks(REJECTS, [rejects]) as items:
        assert (file, items.columns["row"].tolist()) == (0, [3])
        assert json.loads(items.payload("line", 0))["reason"] == DropReason.EMPTY_ANSWER
    (seen,) = tagged["seen"]
    assert seen.rows == {0: 5}
