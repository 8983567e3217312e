"""An installation holds one import name; stages that share nothing but the contract, each alone able to run."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installations import ENVIRONMENT, build, has, install, new_environment

ROOT = Path(__file__).parents[1]
TINY = ROOT / "recipes" / "tiny"
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
# A script of the name that the trainer's folder has: what it imports is the package all the same.
TRAIN_SCRIPT = f"""
from oddsmill import ModelConfig, ORPOConfig, ORPOTrainer

if __name__ == "__main__":
    arguments = ORPOConfig(run_dir="run", max_steps=3, total_batch_size=2)
    model = ModelConfig(config={str(TINY / "config.json")!r})
    ORPOTrainer(arguments=arguments, model=model, train_dataset="data").train()
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


def files_in(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, but for its own list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


def site_packages(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python*")) / "site-packages"


def test_an_installation_adds_one_import_name(wheel: Path, tmp_path: Path):
    python = new_environment(tmp_path / "environment")
    before = set(site_packages(python).iterdir())
    install(python, "--no-deps", wheel)
    added = {path.name for path in set(site_packages(python).iterdir()) - before}
    assert {re.sub(r"-.*\.", "-VERSION.", name) for name in added} == {"oddsmill", "oddsmill-VERSION.dist-info"}
    usage = subprocess.run([python.with_name("oddsmill"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert usage.returncode == 0 and "oddsmill STAGE VERB" in usage.stdout


def test_a_wheel_holds_every_file_of_the_packages_and_no_link(wheel: Path):
    expected = {
        str(Path("oddsmill") / path.relative_to(ROOT))
        for stage in ("schemas", "pipeline", "train")
        for path in (ROOT / stage).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = files_in(wheel)
    ours = {name for name in held if name.startswith("oddsmill/")}
    assert ours == expected | {"oddsmill/__init__.py", "oddsmill/__main__.py", "oddsmill/py.typed"}
    assert held["oddsmill/schemas/record.py"] == (ROOT / "schemas" / "record.py").read_bytes()


def test_the_wheel_of_an_sdist_holds_the_same_files(checkout: Path, wheel: Path, tmp_path: Path):
    """An sdist is what Dataflow's workers install."""
    with tarfile.open(build("sdist", checkout, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert files_in(build("wheel", unpacked, tmp_path)) == files_in(wheel)


def test_an_editable_installation_imports_the_checkout_from_anywhere(checkout: Path, tmp_path: Path):
    python = new_environment(tmp_path / "environment")
    # The libraries are this environment's; its own editable installation is not seen, as no .pth file is read there.
    (site_packages(python) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    install(python, "--no-deps", "--no-build-isolation", "--editable", checkout)
    code = "import oddsmill.schemas.record, oddsmill.train; print(oddsmill.schemas.record.__file__)"
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).resolve() == checkout.resolve() / "schemas" / "record.py"


@pytest.mark.slow
def test_each_stage_runs_in_an_environment_of_its_own(stage: Callable[[str], Path], tmp_path: Path):
    """`oddsmill[pipeline]` preprocesses the tiny recipe, `oddsmill[train]` trains on what came out: all their verbs."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*command: str | Path) -> None:
        subprocess.run(command, cwd=work, env=ENVIRONMENT, check=True)

    python = stage("pipeline")
    assert not any(has(python, module) for module in ("jax", "flax", "grain", "orbax"))
    oddsmill = python.with_name("oddsmill")
    rows = [f"--source.path={TINY / 'pairs.jsonl'}", f"--tokenizer={TINY / 'tokenizer'}"]
    rows += ["--max_length=64", "--max_prompt_length=32"]
    run(oddsmill, "pipeline", "plan", *rows)
    run(oddsmill, "pipeline", "explain", *rows, "--row=17")
    run(oddsmill, "pipeline", "run", *rows, "--output=data")
    for verb in ("inspect", "verify", "report"):
        run(oddsmill, "pipeline", verb, "data")

    python = stage("train")
    assert not has(python, "apache_beam")
    oddsmill, model = python.with_name("oddsmill"), f"--model.config={TINY / 'config.json'}"
    (work / "train.py").write_text(TRAIN_SCRIPT)
    run(python, "train.py")
    assert (work / "run" / "export" / "model.safetensors").is_file()
    run(python, "-m", "oddsmill.train", "run", "--data=data", "--run_dir=second", model, "--max_steps=2")
    run(oddsmill, "train", "eval", "--run_dir=run")
    run(oddsmill, "train", "generate", "--model.path=run/export", "--prompt=Hello", "--max_new_tokens=4")
    run(oddsmill, "train", "export", "--run_dir=run", "--out=model")
    run(oddsmill, "train", "plan", "--data=data", model, "--topology=cpu:2", "--total_batch_size=2")
    assert not (work / "oddsmill").exists() and (work / "model" / "model.safetensors").is_file()
