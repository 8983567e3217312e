"""Writes docs/reference/settings.md from the dataclasses: `make docs`. What it says has no other home than they."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.schemas.settings import setting_types, type_name
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.config.train_config import TrainConfig

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


def documented(settings: Any) -> dict[str, str]:
    """Setting -> what its class says of it, on one line; of a class that extends another, what is its own."""
    extends_a_run = settings is not TrainConfig and issubclass(settings, TrainConfig)
    classes = [settings] if extends_a_run else [*({SamplingConfig} & set(settings.__mro__)), settings]
    text = "\n".join(inspect.cleandoc(kind.__doc__ or "") for kind in classes)
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in entries}


def default(setting: dataclasses.Field) -> str:  # type: ignore[type-arg]
    if setting.default is not dataclasses.MISSING:
        value = setting.default
    elif setting.default_factory is not dataclasses.MISSING:
        value = setting.default_factory()
    else:
        return "needed"
    if dataclasses.is_dataclass(value):
        return "see below"
    return f"`{json.dumps(value)}`"


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, settings, prefix in SECTIONS:
        types = dict(setting_types(settings))
        lines = [f"## {title}\n", "| setting | takes | default | meaning |", "|---|---|---|---|"]
        by_name = {setting.name: setting for setting in dataclasses.fields(settings)}
        for name, meaning in documented(settings).items():
            kind = re.sub(r"\w+Config", "a group", type_name(types[name])) if name in types else "a group"
            cells = (f"`{prefix}{name}`", kind, default(by_name[name]), meaning.replace("|", r"\|"))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
