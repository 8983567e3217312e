"""docs/reference: the table of settings is what the dataclasses say, and what EasyDeL's and TRL's map to exists."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

from docs.make_reference import PAGE, SECTIONS, reference
from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.schemas.settings import setting_types
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.sampling import SamplingConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.trainer import ORPOTrainer
from tests.test_settings_have_readers import settings_classes

ROOT = Path(__file__).parents[2]
MAPPING = (ROOT / "docs" / "reference" / "from_easydel_and_trl.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")] for line in MAPPING.splitlines() if line.startswith("| `")
]


def test_the_reference_is_what_make_docs_writes():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_settings_class_of_a_verb_stands_in_the_reference():
    assert {kind for _, kind in settings_classes() if kind.__name__.endswith("Config")} - {SamplingConfig} == {
        kind for _, kind, _ in SECTIONS
    }


def test_every_setting_of_a_run_stands_in_the_reference():
    text = PAGE.read_text(encoding="utf-8")
    assert {setting.name for setting in fields(TrainConfig)} <= set(re.findall(r"^\| `([\w.]+)` ", text, re.MULTILINE))


def test_every_setting_that_theirs_map_to_exists_here():
    of_a_run = {name for name, _ in setting_types(ORPOConfig)} | set(inspect.signature(ORPOTrainer).parameters)
    of_the_pipeline = {name for name, _ in setting_types(PreprocessConfig)}
    assert len(ROWS) > 150
    for theirs, ours, note in ROWS:
        if not ours:
            assert note, f"{theirs} has neither a setting nor a reason"
            continue
        known = of_the_pipeline if note.startswith("pipeline") else of_a_run
        assert ours in known, f"{theirs} -> {ours}"


def test_every_field_of_easydels_is_mapped(shared):
    peers = (shared / "facts" / "peers.md").read_text(encoding="utf-8")
    section = peers[peers.index("### 1.1 ORPOConfig") : peers.index("### 1.3 ")]
    theirs = set()
    for line in re.findall(r"^- (`.*?)(?: — |$)", section, re.MULTILINE):
        theirs |= set(re.findall(r"`([a-z]\w+)`", line)) - {"break_on_nan"}  # of its loss_config
    assert len(theirs) > 100
    assert theirs <= {name for name, _, _ in ROWS}
