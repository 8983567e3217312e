"""The README.md of an exported model: the fields that the hub reads, how it was trained, and with what result."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from oddsmill.schemas.hub import is_hub_id
from oddsmill.schemas.manifest import Manifest
from oddsmill.schemas.text.printable import printable
from oddsmill.schemas.version import tool_version
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.loss.pairs import PreferenceLoss
from oddsmill.train.model.hf_config import DecoderConfig, num_parameters

# Folders, files and processes of the machine; another machine needs the other settings to repeat the run.
_OF_THE_MACHINE = {"data", "run_dir", "distributed", "verify_shards"}


def hub_id(model: ModelConfig) -> str | None:
    """Returns the id of the model that the run started from, where it came from the hub."""
    name = model.path
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
    *,
    model: ModelConfig,
    lora: LoraConfig | None,
    loss: PreferenceLoss,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    manifest: Manifest,
    eval_manifest: Manifest,
    decoder: DecoderConfig,
    step: int,
    adapter: bool = False,
) -> str:
    """Returns the card of the weights after `step` steps.

    It holds no path and no time: equal runs give equal cards.

    Args:
      model, lora: the model that the run started from and its adapters, if any.
      loss: the loss of the run.
      settings: all settings of the run.
      metrics: the metrics that the card shows.
      manifest, eval_manifest: manifests of the training rows, and of those whose eval split was measured.
      adapter: True for a card of the adapters alone.
    """
    base = hub_id(model)
    data = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        license="unknown",  # whoever publishes the model has to know it
        pipeline_tag="text-generation",
        tags=["oddsmill", settings["loss"], "preference"],
    )
    start, adapted = _start(model, base), ""
    if lora:
        adapted = f", as LoRA adapters of rank {lora.rank} {'that lie here' if adapter else 'merged here'},"
    measured = "\n".join(
        f"| {name} | {value if isinstance(value, str) else f'{value:.6g}'} |" for name, value in metrics.items()
    )
    settings_text = yaml.safe_dump(portable_settings(settings, base), sort_keys=False, allow_unicode=True)
    return printable(f"""---
{data.to_yaml()}
---

# {decoder.model_type.capitalize()} trained with {loss.title}

A {decoder.model_type} decoder of {num_parameters(decoder):,} parameters, trained {start}{adapted} for {step:,} steps
on pairs of a preferred and a rejected answer, with the loss of
[{loss.title}]({loss.paper}) at beta {settings["beta"]:g}. Made with oddsmill {tool_version()}.

```python
{_LOAD_ADAPTER if adapter else _LOAD_MODEL}
```

## Data

{_describe_data(manifest, eval_manifest)}

## Metrics

The last that were logged up to step {step:,}; `eval/` is the held-out split.

| metric | value |
|---|---|
{measured}

## Settings

```yaml
{settings_text}```
""")


def _start(model: ModelConfig, base: str | None) -> str:
    """Returns what the training started from, `base` its id on the hub."""
    if base:
        revision = f" at revision `{model.revision}`" if model.revision else ""
        return f"from [{base}](https://huggingface.co/{base}){revision}"
    return "from the weights of a local folder" if model.path else "from random weights"


def _describe_data(manifest: Manifest, eval_manifest: Manifest) -> str:
    """Returns the table of the splits, and the fingerprints of the rows."""
    splits = manifest.splits | {name: split for name, split in eval_manifest.splits.items() if name == "eval"}
    rows = [f"| {name} | {split.pairs:,} | {sum(split.tokens.values()):,} |" for name, split in splits.items()]
    table = "\n".join(["| split | pairs | tokens |", "|---|---|---|", *rows])
    evaluated = ""
    if eval_manifest.sha256 != manifest.sha256:
        evaluated = f"\n\nThat of the dataset whose eval split was measured: `{eval_manifest.sha256}`"
    return f"""{table}

Fingerprint (sha256 of the manifest, which covers every shard): `{manifest.sha256}`{evaluated}

Fingerprint of the rows that it was made from: `{manifest.source_fingerprint}`"""


def portable_settings(settings: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """Returns the settings with each path but the hub id `base` cut to its last part."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shorten(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [shorten(inner) for inner in value]
        if isinstance(value, str) and value != base and os.sep in value:
            return Path(value).name
        return value

    return {name: shorten(value) for name, value in settings.items() if name not in _OF_THE_MACHINE}
