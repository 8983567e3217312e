"""No setting that nothing reads, and none without help, in any settings class of either stage."""

import ast
import dataclasses
import importlib
from functools import cache
from pathlib import Path

import pytest

from oddsmill.schemas.settings import facts_of

ROOT = Path(__file__).parents[1]


def settings_classes() -> list[tuple[str, type]]:
    """Each class that is made by `@settings(…)`, with its stage."""
    found = []
    for stage in ("pipeline", "train"):
        for path in sorted((ROOT / stage).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                made_by = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
                if isinstance(node, ast.ClassDef) and any(name.startswith("settings(") for name in made_by):
                    module = ".".join(("oddsmill", *path.relative_to(ROOT).with_suffix("").parts))
                    found.append((stage, getattr(importlib.import_module(module), node.name)))
    return found


@cache
def names_read(stage: str) -> set[str]:
    """Each attribute that the code of a stage reads."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / stage).rglob("*.py")]
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


CLASSES = settings_classes()


def test_the_classes_of_all_verbs_are_found():
    names = {kind.__name__ for _, kind in CLASSES}
    assert {"TrainConfig", "LoraConfig", "EvaluateConfig", "PreprocessConfig", "SourceConfig", "VerifyConfig"} <= names


@pytest.mark.parametrize(("stage", "kind"), CLASSES, ids=lambda value: getattr(value, "__name__", value))
def test_every_setting_has_a_reader_and_help(stage: str, kind: type):
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    assert not set(names) - names_read(stage)
    for name in names:
        text = facts_of(kind, name).help
        assert text.endswith(".") and len(text.split()) > 1, name
        assert name in (kind.__doc__ or "")
