"""The content of a model's files, as far as it can be told without reading all weights."""

import hashlib
from pathlib import Path
from typing import Any

from oddsmill.train.model.hf_config import read_config

# A file up to this size is read in full, of a larger one so many places: other weights of the same shapes differ in
# every one of them, and reading 16 GB for it would take longer than loading them.
_READ_IN_FULL, _PLACES, _BYTES_A_PLACE = 32 << 20, 64, 4096
_NO_PART = {"README.md", ".gitattributes", "LICENSE"}


def model_facts(path: Path) -> dict[str, Any]:
    """Returns what makes a model: the fields of config.json, and sizes and digests of its files of weights and tokens.

    Two copies of a folder have the same facts. Large files are told by their size, their start, which in safetensors
    names all tensors, and samples of the rest.

    Args:
      path: config.json, or the folder that holds it.

    Raises:
      Refused: there is no config.json, or it cannot be read.
    """
    facts = {f"config.json: {name}": value for name, value in read_config(path).items()}
    if path.is_dir():
        files = [
            file
            for pattern in ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
            for file in path.glob(pattern)
        ]
        for file in sorted(set(files)):
            if file.name not in ("config.json", *_NO_PART):
                facts[f"the model's {file.name}"] = f"{file.stat().st_size:,} bytes, digest {sampled_digest(file)}"
    return facts


def sampled_digest(file: Path) -> str:
    """Returns 16 hex digits for the content of a file; of a large one only samples are read."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as opened:
        if size <= _READ_IN_FULL:
            digest.update(opened.read())
        else:
            digest.update(opened.read(1 << 20))
            for place in range(_PLACES):
                opened.seek((size - _BYTES_A_PLACE) * place // (_PLACES - 1))
                digest.update(opened.read(_BYTES_A_PLACE))
    return digest.hexdigest()[:16]
