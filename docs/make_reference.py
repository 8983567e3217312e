"""Writes docs/reference/settings.md from the fields of the settings classes; `make docs` runs it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from oddsmill.pipeline.commands.explain import ExplainConfig
from oddsmill.pipeline.commands.explain_dump import DumpConfig
from oddsmill.pipeline.commands.inspect import InspectConfig
from oddsmill.pipeline.commands.plan import PlanConfig
from oddsmill.pipeline.commands.report import ReportConfig
from oddsmill.pipeline.commands.verify import VerifyConfig
from oddsmill.pipeline.config import DatasetSettings, PreprocessConfig, SourceConfig
from oddsmill.schemas.settings import default_of, facts_of, setting_types, type_name
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.plan import PlanConfig as TrainPlanConfig
from oddsmill.train.config.train_config import StepSettings, TrainConfig

PAGE = Path(__file__).parent / "reference" / "settings.md"
# Title, class, and what its settings begin with on a command line.
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
    ("`oddsmill train plan`, beside those of a run", TrainPlanConfig, ""),
    ("`oddsmill pipeline run`", PreprocessConfig, ""),
    ("`source`: where rows come from", SourceConfig, "source."),
    ("`oddsmill pipeline plan`, beside those of `run`", PlanConfig, ""),
    ("`oddsmill pipeline explain`, beside those of `run`", ExplainConfig, ""),
    ("`oddsmill pipeline explain --dump=FILE`", DumpConfig, ""),
    ("`oddsmill pipeline inspect`", InspectConfig, ""),
    ("`oddsmill pipeline verify`", VerifyConfig, ""),
    ("`oddsmill pipeline report`", ReportConfig, ""),
]
HEAD = """# Settings

`make docs` writes this page from the fields of the settings classes. `--config FILE.yaml` is read first, then
`--key=value` over it; `null` is `None` in Python. A run may go on with another value of the settings marked \\*, and no
others. Every verb also takes `--log_level=debug|info|warning|error`, which says what messages are shown.
[What EasyDeL's and TRL's settings are called here](from_easydel_and_trl.md).
"""


def default(field: "dataclasses.Field[Any]") -> str:
    """The cell of a field's default."""
    value = default_of(field)
    if value is dataclasses.MISSING:
        return "needed"
    return "see below" if dataclasses.is_dataclass(value) else f"`{json.dumps(value)}`"


def own_fields(settings: Any) -> "list[dataclasses.Field[Any]]":
    """The fields of a class, without those that it has from the settings of a run with the same meaning."""
    for shared, run in ((StepSettings, TrainConfig), (DatasetSettings, PreprocessConfig)):
        if issubclass(settings, shared) and settings is not run:
            of_a_run = {field.name: field.metadata for field in dataclasses.fields(run)}
            return [field for field in dataclasses.fields(settings) if of_a_run.get(field.name) != field.metadata]
    return list(dataclasses.fields(settings))


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, settings, prefix in SECTIONS:
        types = dict(setting_types(settings))
        lines = [f"## {title}\n", "| setting | takes | default | meaning |", "|---|---|---|---|"]
        for field in own_fields(settings):
            facts = facts_of(settings, field.name)
            kind = re.sub(r"\w+Config", "a group", type_name(types[field.name])) if field.name in types else "a group"
            takes = f"{kind}, {facts.range}" if facts.range else kind
            mark = r" \*" if facts.may_change else ""
            meaning = facts.meaning.replace("|", r"\|")
            lines.append(f"| `{prefix}{field.name}`{mark} | {takes} | {default(field)} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
