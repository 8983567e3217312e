"""Which oddsmill this is: what the manifest and the model card say they were made with."""

import importlib.metadata
import tomllib
from pathlib import Path


def tool_version() -> str:
    """Of the installed package, or of the checkout that runs without having been installed."""
    try:
        return importlib.metadata.version("oddsmill")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
