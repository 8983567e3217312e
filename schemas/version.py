"""The version of oddsmill, which the manifest and the model card name."""

import importlib.metadata
import tomllib
from pathlib import Path


def tool_version() -> str:
    """Returns the version of the installed package, or of the checkout that runs without having been installed."""
    try:
        return importlib.metadata.version("oddsmill")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
