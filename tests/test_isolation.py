"""The stages share nothing but the contract: each imports and runs where the other's libraries are absent."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAIN_ONLY = ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorboardX", "matplotlib", "oddsmill.train")
PIPELINE_ONLY = ("apache_beam", "oddsmill.pipeline")
BLOCK = """
import importlib, importlib.abc, pkgutil, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {absent!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Absent())
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("oddsmill.pipeline", TRAIN_ONLY),
        ("oddsmill.train", PIPELINE_ONLY),
        ("oddsmill.schemas", TRAIN_ONLY + PIPELINE_ONLY),
    ],
)
def test_every_module_imports_without_the_other_stage(package, absent):
    code = BLOCK.format(absent=absent, package=package)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_block_above_blocks():
    code = BLOCK.format(absent=("apache_beam",), package="oddsmill.pipeline")
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 1 and "No module named 'apache_beam" in finished.stderr


def install(folder: Path, extra: str) -> Path:
    """A new virtual environment with one extra alone, at the versions of the lock; returns its interpreter."""
    constraints = folder / "constraints.txt"
    pins = re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    constraints.write_text("\n".join(pins))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    # What no test imports is not compiled to bytecode.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--constraint", constraints, f"{ROOT}[{extra}]"], check=True)
    return python


def has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], cwd="/").returncode == 0


@pytest.mark.slow
def test_each_stage_runs_in_an_environment_of_its_own(tmp_path):
    """`pip install .[pipeline]` preprocesses the tiny recipe, `pip install .[train]` trains on what came out."""
    tiny, work = ROOT / "recipes" / "tiny", tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "pipeline").mkdir()
    python = install(tmp_path / "pipeline", "pipeline")
    assert not any(has(python, module) for module in ("jax", "flax", "grain", "orbax"))
    subprocess.run(
        [python, "-m", "oddsmill.pipeline", "run",
         f"--source.path={tiny / 'pairs.jsonl'}", f"--tokenizer={tiny / 'tokenizer'}",
         "--max_length=64", "--max_prompt_length=32", "--output=data"],
        cwd=work, env=environment, check=True,
    )  # fmt: skip
    (tmp_path / "train").mkdir()
    python = install(tmp_path / "train", "train")
    assert not has(python, "apache_beam")
    subprocess.run(
        [python, "-m", "oddsmill.train", "run",
         "--data=data", "--run_dir=run", f"--model.config={tiny / 'config.json'}",
         "--max_steps=3", "--total_batch_size=2"],
        cwd=work, env=environment, check=True,
    )  # fmt: skip
    assert (work / "run" / "export" / "model.safetensors").is_file()
