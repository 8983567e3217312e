"""Which files of a model are downloaded from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.hub import find_folder

# Never pickled weights, never code.
_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.jinja",
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
)
# The same weights once more, in another layout or for another tool.
_IGNORED = ("consolidated*.safetensors", "*/*.safetensors", "*/*.safetensors.index.json")


def find_model(name: str, revision: str | None, *, files: Sequence[str] = _FILES) -> Path:
    """Returns the folder of a model: `name` itself, or a download of the hub's model of that id.

    Args:
      files: patterns of the files to download.

    Raises:
      Refused: neither a folder nor a model that the hub or its cache has.
    """
    if Path(name).is_file():
        raise Refused(f"--model.path={name} is a file; give the folder that holds config.json and the safetensors")
    return find_folder(
        name, revision, setting="model.path", revision_setting="model.revision", files=files, ignored=_IGNORED
    )
