"""The tokenizer: its files, its special tokens, and encoding many texts at once."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import tokenizers

from schemas.errors import Refused
from schemas.manifest import TokenizerSummary, file_sha256

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class TextTokenizer:
    """A `tokenizer.json` with the special tokens that stand beside it.

    Attributes:
      bos_id: None where the tokenizer has none.
      pad_id: that of the end of sequence where the tokenizer has none of its own.
    """

    def __init__(self, folder: str | Path):
        """Loads a folder.

        Raises:
          Refused: no tokenizer.json, a broken one, or no end-of-sequence token.
        """
        self._folder = Path(folder)
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise Refused(
                f"{folder} has no tokenizer.json. Save it with transformers: "
                "AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises plain Exception
            raise Refused(f"{path}: not a tokenizer.json ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.bos_id = self._special_id("bos_token")
        eos_id = self._special_id("eos_token")
        if eos_id is None:
            raise Refused(
                f"{folder}: the tokenizer names no eos_token, so an answer could not end. "
                'Write "eos_token": "…" into its tokenizer_config.json'
            )
        self.eos_id = eos_id
        pad_id = self._special_id("pad_token", required=False)
        self.pad_id = eos_id if pad_id is None else pad_id
        self._is_space = cache(lambda token: not self.decode([token]).strip())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with no special token added."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """The token as it stands in the vocabulary."""
        return self._tokenizer.id_to_token(token_id) or f"<{token_id}>"

    def is_space(self, token_id: int) -> bool:
        """Whether the token stands for white space alone."""
        return self._is_space(token_id)

    @cached_property
    def vocab_size(self) -> int:
        """The highest id + 1, added tokens included: there may be more ids than tokens."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def summary(self) -> TokenizerSummary:
        """What the manifest says of the tokenizer."""
        return TokenizerSummary(
            sha256={path.name: file_sha256(path) for path in tokenizer_files(self._folder)},
            chat_template_sha256=self._chat_template_sha256(),
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
            vocab_size=self.vocab_size,
        )

    def _special_id(self, name: str, *, required: bool = True) -> int | None:
        for file_name in ("tokenizer_config.json", "special_tokens_map.json"):
            settings = _read_json(self._folder / file_name)
            if name in settings:
                break
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            return None
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None and required:
            raise Refused(f"{self._folder / file_name}: {name} {token!r} is not in the vocabulary")
        return token_id

    def _chat_template_sha256(self) -> str | None:
        path = self._folder / "chat_template.jinja"
        template: Any = _read_json(self._folder / "tokenizer_config.json").get("chat_template")
        if path.is_file():
            template = path.read_text(encoding="utf-8")
        if template is None:
            return None
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def find_tokenizer(name: str, revision: str | None) -> Path:
    """The folder of a tokenizer: `name` itself, or a download of the hub's model of that id.

    Raises:
      Refused: neither is there.
    """
    if os.path.isdir(name):
        if revision is not None:
            raise Refused(f"--tokenizer_revision={revision}: {name} is a local folder, which has no revisions")
        return Path(name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise Refused(f"--tokenizer={name}: no such folder, and not a hub id such as org/name")
    return _download(name, revision)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer that exist in a folder."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a tokenizer's files, so that the dataset holds all that is needed to use it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in tokenizer_files(source):
        shutil.copyfile(path, target / path.name)


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub  # slow to import, and needed for a hub id only
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = None
    for file_name in TOKENIZER_FILES:
        try:
            path = Path(huggingface_hub.hf_hub_download(name, file_name, revision=revision))
        except (EntryNotFoundError, OSError, ValueError) as error:
            unreachable = isinstance(error, LocalEntryNotFoundError) and not _offline()
            if folder and isinstance(error, EntryNotFoundError) and not unreachable:
                continue  # the model does not have this file
            raise Refused(
                f"--tokenizer={name}: no such local folder, and {file_name} cannot be had from the hub: "
                + " ".join(str(error).split())
            ) from error
        folder = path.parent
        revision = folder.name  # the commit: the other files must come from the same one
    assert folder is not None
    return folder


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path}: broken JSON ({error})") from error
    if not isinstance(values, dict):
        raise Refused(f"{path}: not a JSON object")
    return values
