"""Environments of their own for tests of what is installed, and how packages are built and installed into them."""

import os
import subprocess
import sys
from pathlib import Path


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds a `wheel` or an `sdist` of a source folder; returns the file."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    return target / built.stdout.splitlines()[-1]


def new_environment(folder: Path) -> Path:
    """An empty virtual environment; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


# A checkout on the path would be found in place of what is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def install(python: Path, *arguments: str | Path) -> None:
    # What no test imports is not compiled to bytecode.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--disable-pip-version-check", *arguments], check=True, env=ENVIRONMENT)


def has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], cwd="/").returncode == 0
