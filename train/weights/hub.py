"""Where the model's files are: a local folder, or the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from oddsmill.schemas.errors import Refused

# Never pickled weights, never code.
_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
_FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.jinja"]
_FILES += ["added_tokens.json", "merges.txt", "tokenizer.model", "vocab.json"]
# The same weights once more, in another layout or for another tool.
_NOT_READ = ["consolidated*.safetensors", "*/*.safetensors", "*/*.safetensors.index.json"]


def find_model(name: str, revision: str | None, *, files: Sequence[str] = _FILES) -> Path:
    """The folder of a model: `name` itself, or a download of the hub's model of that id.

    Args:
      files: which of its files are downloaded.

    Downloads go through huggingface_hub: its cache, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.

    Raises:
      Refused: neither a folder nor a model that the hub or its cache has.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise Refused(f"--model.revision={revision}: {name} is a local folder, which has no revisions")
        return folder
    if folder.is_file():
        raise Refused(f"--model.path={name} is a file; give the folder that holds config.json and the safetensors")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise Refused(f"--model.path={name}: no such folder, and not a hub id such as org/name")
    import huggingface_hub  # slow to import, and needed for a hub id only
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(files), ignore_patterns=_NOT_READ
        )
        return Path(snapshot)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"--model.path={name}: no such folder, and the hub does not give it: {reason}") from error
