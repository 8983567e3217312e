import importlib.metadata
import re
from pathlib import Path

import pytest

from oddsmill.schemas.version import tool_version

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_version_is_that_of_the_project():
    assert re.search(rf'^version = "{re.escape(tool_version())}"$', PROJECT.read_text(), re.MULTILINE)


def test_a_checkout_that_was_never_installed_has_the_same_version(monkeypatch: pytest.MonkeyPatch):
    installed = tool_version()

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert tool_version() == installed
