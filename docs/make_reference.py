"""Writes docs/reference/settings.md from the dataclasses: `make docs`. What it says has no other home than they."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.schemas.settings import default_of, facts_of, setting_types, type_name
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.config.train_config import StepSettings, TrainConfig

PAGE = Path(__file__).parent / "reference" / "settings.md"
# Title, class, what its settings begin with on a command line.
SECTIONS: list[tuple[str, Any, str]] = [
    ("`oddsmill train run`", TrainConfig, ""),
    ("`model`: which model", ModelConfig, "model."),
    ("`lora`: adapters", LoraConfig, "lora."),
    ("`mesh`: devices", MeshConfig, "mesh."),
    ("`distributed`: processes", DistributedConfig, "distributed."),
    ("Python: `ORPOConfig`, beside those of a run", ORPOConfig, ""),
    ("`oddsmill train eval`", EvaluateConfig, ""),
    ("`oddsmill train generate`", GenerateConfig, ""),
    ("`oddsmill train export`", ExportConfig, ""),
    ("`oddsmill train plan`, beside those of a run", PlanConfig, ""),
    ("`oddsmill pipeline run`", PreprocessConfig, ""),
    ("`source`: where rows come from", SourceConfig, "source."),
]
HEAD = """# Settings

Written by `make docs` from the dataclasses. `--config FILE.yaml` first, then `--key=value` over it; `null` is `None` in
Python. [What EasyDeL's and TRL's settings are called here](from_easydel_and_trl.md).
"""


def default(field: "dataclasses.Field[Any]") -> str:
    """The cell of a field's default."""
    value = default_of(field)
    if value is dataclasses.MISSING:
        return "needed"
    return "see below" if dataclasses.is_dataclass(value) else f"`{json.dumps(value)}`"


def own_fields(settings: Any) -> "list[dataclasses.Field[Any]]":
    """The fields of a class; of one that extends a run's those that a run has not, or has with another meaning."""
    if not issubclass(settings, StepSettings) or settings is TrainConfig:
        return list(dataclasses.fields(settings))
    of_a_run = {field.name: field.metadata for field in dataclasses.fields(TrainConfig)}
    return [field for field in dataclasses.fields(settings) if of_a_run.get(field.name) != field.metadata]


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, settings, prefix in SECTIONS:
        types = dict(setting_types(settings))
        lines = [f"## {title}\n", "| setting | takes | default | meaning |", "|---|---|---|---|"]
        for field in own_fields(settings):
            kind = type_name(types[field.name]) if field.name in types else "a group"
            kind = re.sub(r"\w+Config", "a group", kind)
            meaning = facts_of(settings, field.name).help.replace("|", r"\|")
            lines.append(f"| `{prefix}{field.name}` | {kind} | {default(field)} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
