"""`oddsmill` has a few names, imported on first use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import oddsmill

ROOT = Path(__file__).parents[1]


def modules_after(code: str) -> set[str]:
    """The modules that an interpreter of its own has loaded when `code` has run."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_names_are_those_of_the_stages():
    from oddsmill.pipeline.config import PreprocessConfig
    from oddsmill.pipeline.run import preprocess
    from oddsmill.train.config.orpo_config import ORPOConfig
    from oddsmill.train.trainer import ORPOTrainer

    assert oddsmill.PreprocessConfig is PreprocessConfig and oddsmill.preprocess is preprocess
    assert oddsmill.ORPOConfig is ORPOConfig and oddsmill.ORPOTrainer is ORPOTrainer


def test_every_name_that_dir_lists_is_there():
    assert {"ORPOConfig", "ORPOTrainer", "PreprocessConfig", "preprocess"} <= set(dir(oddsmill))
    for name in oddsmill.__all__:
        assert getattr(oddsmill, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'oddsmill' has no attribute 'ORPOTrainr'"):
        _ = oddsmill.ORPOTrainr
    with pytest.raises(ImportError, match="ORPOTrainr"):
        exec("from oddsmill import ORPOTrainr")


def test_importing_the_package_imports_neither_stage():
    loaded = modules_after("import oddsmill; dir(oddsmill)")
    assert "oddsmill" in loaded
    assert not {"jax", "numpy", "apache_beam", "oddsmill.train", "oddsmill.pipeline"} & loaded


def test_the_settings_of_a_run_need_neither_jax_nor_beam():
    loaded = modules_after("from oddsmill import ORPOConfig, PreprocessConfig")
    assert "oddsmill.train.config.train_config" in loaded
    assert not {"jax", "apache_beam"} & loaded
