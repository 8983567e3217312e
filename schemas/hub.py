"""Models and tokenizers by their name: a local folder, or a repository of the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from oddsmill.schemas.errors import Refused, one_line


def is_hub_id(name: str) -> bool:
    """Returns whether a name looks like `org/name`; the hub decides what else is allowed."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def find_folder(
    name: str,
    revision: str | None,
    *,
    setting: str,
    revision_setting: str,
    files: Sequence[str],
    ignored: Sequence[str] = (),
) -> Path:
    """Returns the folder that a setting names: `name` itself, or a download of the hub's model of that id.

    Downloads go through huggingface_hub: its cache, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.

    Args:
      setting, revision_setting: the settings that gave `name` and `revision`, for error messages.
      files: patterns of the files to download; `ignored`: patterns of those among them that are left out.

    Raises:
      Refused: neither a folder nor a model that the hub or its cache has; or a revision of a local folder.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise Refused(f"--{revision_setting}={revision}: {name} is a local folder, which has no revisions")
        return folder
    if not is_hub_id(name):
        raise Refused(f"--{setting}={name}: no such folder, and not a hub id such as org/name")
    import huggingface_hub  # slow to import, and needed for a hub id only

    try:
        snapshot = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(files), ignore_patterns=list(ignored)
        )
    except (OSError, ValueError) as error:  # no connection and no cache, no such model or revision, no valid id
        reason = one_line(error)
        raise Refused(f"--{setting}={name}: no such folder, and the hub does not give it: {reason}") from error
    return Path(snapshot)
