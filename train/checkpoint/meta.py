"""The JSON beside the arrays of a checkpoint: what the run was, where it stood, and digests of all that is stored."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from oddsmill.schemas.settings import defaults_of
from oddsmill.train.config.train_config import TrainConfig

_OWN_DIGEST = "meta_digest"
# The other entries; older versions wrote these alone.
_ENTRIES = {"identity", "data", "data_order", "frozen_digest", "digest", "params_digest", "notes"}


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON with a digest of itself."""
    return {**meta, _OWN_DIGEST: _digest(meta)}


def check_seal(meta: Any) -> dict[str, Any]:
    """Returns JSON that was sealed, if it is as it was. That of older versions, which had no digest, is taken as it is.

    Raises:
      ValueError: something in it was altered.
    """
    entries = dict(meta)
    digest = entries.pop(_OWN_DIGEST, None)
    # An altered character may be one of the names.
    if (digest is not None and digest != _digest(entries)) or not entries.keys() <= _ENTRIES:
        raise ValueError("its notes are not those saved")
    if not all(isinstance(entries.get(name, {}), dict) for name in ("identity", "notes")):
        raise ValueError("its notes are no object")  # older ones have no digest
    return dict(meta)


def _digest(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def identity_differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Returns the settings that a checkpoint was not made with, each with its value then and now.

    A checkpoint that does not name a setting is older than it, and was made with what is its default now.
    """
    defaults = defaults_of(TrainConfig)
    saved = {name: defaults[name] for name in own.keys() & defaults.keys()} | dict(saved)
    return [
        f"{name}: {saved.get(name)} -> {own.get(name)}"
        for name in sorted(saved.keys() | own.keys())
        if saved.get(name) != own.get(name)
    ]
