"""README.md of an exported model: what the hub reads of it, what it was trained on, how, and with what result."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from oddsmill.schemas.hub import is_hub_id
from oddsmill.schemas.manifest import Manifest
from oddsmill.schemas.version import tool_version
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.hf_config import DecoderConfig, num_parameters
from oddsmill.train.monitor.metrics import METRICS_NAME

# Folders and processes of the machine; the rest of the settings is what another one needs to repeat the run.
_OF_THE_MACHINE = {"data", "run_dir", "distributed"}


def hub_id(config: TrainConfig) -> str | None:
    """The id of the model that the run started from, where it came from the hub."""
    name = config.model.path
    return name if name and not os.path.isdir(name) and is_hub_id(name) else None


_LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)"""
_LOAD_ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # where this file lies; adapter_config.json names the model that is loaded with it
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)"""


def model_card(
    config: TrainConfig,
    manifest: Manifest,
    eval_manifest: Manifest,
    decoder: DecoderConfig,
    *,
    step: int,
    adapter: bool = False,
) -> str:
    """The card of the weights after `step` steps. It holds no path and no time: equal runs give equal cards.

    Args:
      manifest: of the rows that were trained on; eval_manifest: of those whose eval split was measured.
      adapter: of the adapters alone.
    """
    base = hub_id(config)
    data = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        license="unknown",  # whoever publishes the model has to know it
        pipeline_tag="text-generation",
        tags=["oddsmill", "orpo", "preference"],
    )
    if base:
        start = f"from [{base}](https://huggingface.co/{base})"
        start += f" at revision `{config.model.revision}`" if config.model.revision else ""
    else:
        start = "from the weights of a local folder" if config.model.path else "from random weights"
    adapted = ""
    if config.lora:
        adapted = f", as LoRA adapters of rank {config.lora.rank} {'that lie here' if adapter else 'merged here'},"
    of_splits = manifest.splits | {name: split for name, split in eval_manifest.splits.items() if name == "eval"}
    splits = "\n".join(
        f"| {name} | {split.pairs:,} | {sum(split.tokens.values()):,} |" for name, split in of_splits.items()
    )
    evaluated = ""
    if eval_manifest.sha256 != manifest.sha256:
        evaluated = f"\n\nThat of the dataset whose eval split was measured: `{eval_manifest.sha256}`"
    measured = "\n".join(
        f"| {name} | {value if isinstance(value, str) else f'{value:.6g}'} |"
        for name, value in metrics_at(config.run_dir, step).items()
    )
    settings = yaml.safe_dump(portable_settings(config), sort_keys=False, allow_unicode=True)
    return f"""---
{data.to_yaml()}
---

# {decoder.model_type.capitalize()} trained with ORPO

A {decoder.model_type} decoder of {num_parameters(decoder):,} parameters, trained {start}{adapted} for {step:,} steps
on pairs of a preferred and a rejected answer, with the loss of
[ORPO](https://arxiv.org/abs/2403.07691) at beta {config.beta:g}. Made with oddsmill {tool_version()}.

```python
{_LOAD_ADAPTER if adapter else _LOAD_MODEL}
```

## Data

| split | pairs | tokens |
|---|---|---|
{splits}

Fingerprint (sha256 of the manifest, which covers every shard): `{manifest.sha256}`{evaluated}

Fingerprint of the rows that it was made from: `{manifest.source_fingerprint}`

## Metrics

The last that were logged up to step {step:,}; `eval/` is the held-out split.

| metric | value |
|---|---|
{measured}

## Settings

```yaml
{settings}```
"""


def metrics_at(run_dir: str | Path, step: int) -> dict[str, Any]:
    """The newest value of every metric up to a step, but for speeds."""
    newest: dict[str, Any] = {}
    for line in (Path(run_dir) / METRICS_NAME).read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if values["step"] <= step:
            newest |= values
    return {name: newest[name] for name in sorted(newest) if name not in ("step", "mfu") and "per_second" not in name}


def portable_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings without paths: of a path that is not a hub id, the last part stays."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shorten(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [shorten(inner) for inner in value]
        if isinstance(value, str) and value != hub_id(config) and os.sep in value:
            return Path(value).name
        return value

    return {name: shorten(value) for name, value in dataclasses.asdict(config).items() if name not in _OF_THE_MACHINE}
