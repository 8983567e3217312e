"""The graph as it is built, without a run of it; tests/pipeline/test_run.py has those."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.pipeline import PipelineVisitor
from apache_beam.transforms.core import GroupByKey

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.build import build
from oddsmill.pipeline.resolved_run import resolve_run


class Nodes(PipelineVisitor):
    """Gathers the applied transforms of a pipeline by label, and what consumes each collection."""

    def __init__(self) -> None:
        self.by_label: dict[str, beam.pipeline.AppliedPTransform] = {}
        self.consumed: set[object] = set()

    def enter_composite_transform(self, transform_node: beam.pipeline.AppliedPTransform) -> None:
        self.visit_transform(transform_node)

    def visit_transform(self, transform_node: beam.pipeline.AppliedPTransform) -> None:
        self.by_label[transform_node.full_label] = transform_node
        self.consumed |= set(transform_node.inputs) | {side.pvalue for side in transform_node.side_inputs}


@pytest.fixture
def nodes(write_rows: Callable, triples: Callable, tokenizer_folder: Path, tmp_path: Path) -> Nodes:
    path = write_rows("rows.jsonl", triples(5))
    config = PreprocessConfig(
        source=SourceConfig(path=str(path)), tokenizer=str(tokenizer_folder), output=str(tmp_path / "out")
    )
    p = beam.Pipeline()
    build(p, resolve_run(config))
    nodes = Nodes()
    p.visit(nodes)
    return nodes


def test_every_output_is_consumed_but_for_the_manifests(nodes: Nodes):
    """A tag that nothing reads would be rows that disappear."""
    unread = {
        label
        for label, node in nodes.by_label.items()
        if not node.parts and not nodes.consumed & set(node.outputs.values())
    }
    assert unread == {"WriteManifest"}
    tags = {label: set(node.outputs) for label, node in nodes.by_label.items()}
    assert {"rejects", "seen"} <= tags["Pairs"] and "rejects" in tags["WriteShard"]


def test_all_of_the_data_is_shuffled_once(nodes: Nodes):
    groups = {label for label, node in nodes.by_label.items() if isinstance(node.transform, GroupByKey)}
    assert {label for label in groups if "/" not in label} == {"ByInput", "ByShard", "ByFile"}


def test_nothing_is_written_before_it_runs(nodes: Nodes, tmp_path: Path):
    assert "WriteShard" in nodes.by_label
    assert not (tmp_path / "out").exists()
