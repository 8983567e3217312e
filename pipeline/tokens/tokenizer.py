"""The tokenizer of a run: finding and checking it, its summary in the manifest, its copy beside the dataset."""

import hashlib
import os
import shutil
from pathlib import Path

from oddsmill.schemas.chat.added_tokens import ADDED_TOKENS
from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.chat.special_tokens import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from oddsmill.schemas.chat.template import TEMPLATE_FILE, TEMPLATE_FOLDER
from oddsmill.schemas.chat.tokenizer import TOKENIZER_JSON, Tokenizer
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.hub import find_folder
from oddsmill.schemas.manifest import TokenizerSummary, file_sha256
from oddsmill.schemas.stores import fetch_folder, is_remote

TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TEMPLATE_FILE)


def load_tokenizer(folder: str | Path, *, chat_template: str | None = None) -> Tokenizer:
    """Loads a tokenizer and checks that answers can end and that its special tokens are in its vocabulary.

    Args:
      chat_template: as `Tokenizer` takes it.

    Raises:
      Refused: as `Tokenizer`; no end-of-sequence token; a BOS or EOS that the vocabulary lacks.
    """
    tokenizer = Tokenizer(folder, chat_template=chat_template)
    for name in ("bos_token", "eos_token"):
        token = tokenizer.special_tokens.get(name)
        if token is not None and tokenizer.special_id(name) is None:
            raise Refused(f"{folder}: {name} {token!r} is not in the vocabulary of {TOKENIZER_JSON}")
    _ = tokenizer.eos_id  # raises where there is none
    return tokenizer


def summarize_tokenizer(tokenizer: Tokenizer) -> TokenizerSummary:
    """Summarizes the tokenizer for the manifest. A tokenizer without a padding token pads with EOS."""
    pad_id = tokenizer.special_id("pad_token")
    return TokenizerSummary(
        sha256=_file_digests(tokenizer),
        chat_template_sha256=tokenizer.chat_template.sha256 if tokenizer.chat_template else None,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.eos_id if pad_id is None else pad_id,
        vocab_size=tokenizer.vocab_size,
        turn_end=tokenizer.turn_markers.end,
        turn_start_id=tokenizer.turn_markers.start_id,
        ids_sha256=ids_sha256(tokenizer.folder),
    )


def copy_tokenizer(tokenizer: Tokenizer, target: Path) -> None:
    """Copies the tokenizer's files, so that the dataset holds all that is needed to use it.

    A template that was given stands there in place of the tokenizer's own, and tokenizer.json lists the added tokens
    that stood beside it, so that every library makes the ids of the rows.
    """
    for path in tokenizer_files(tokenizer.folder):
        if tokenizer.given_template is None or not _is_template(path):
            copy = target / path.relative_to(tokenizer.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    (target / TOKENIZER_JSON).write_bytes(tokenizer.content)
    if tokenizer.given_template is not None:
        (target / TEMPLATE_FILE).write_bytes(tokenizer.given_template.encode())


def find_tokenizer(name: str, revision: str | None) -> Path:
    """Finds the folder of a tokenizer: `name` itself, or a download of the hub's model of that id.

    Raises:
      Refused: neither is there.
    """
    if is_remote(name):
        require(revision is None, "tokenizer_revision", revision, f"{name} is a folder, which has no revisions")
        return Path(fetch_folder(name))
    patterns = [*TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja"]
    folder = find_folder(name, revision, setting="tokenizer", revision_setting="tokenizer_revision", files=patterns)
    if not os.path.isdir(name) and not (folder / TOKENIZER_JSON).is_file():
        raise Refused(
            f"--tokenizer={name}: the model has no {TOKENIZER_JSON} on the hub, or in the cache where there is no "
            "connection. Save its tokenizer with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
        )
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    """Lists the files of a tokenizer that exist in a folder."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return files + sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))


def _file_digests(tokenizer: Tokenizer) -> dict[str, str]:
    files = tokenizer_files(tokenizer.folder)
    digests = {str(path.relative_to(tokenizer.folder)): file_sha256(path) for path in files}
    digests[TOKENIZER_JSON] = hashlib.sha256(tokenizer.content).hexdigest()
    if tokenizer.given_template is not None:
        digests = {name: digest for name, digest in digests.items() if not _is_template(tokenizer.folder / name)}
        digests[TEMPLATE_FILE] = hashlib.sha256(tokenizer.given_template.encode()).hexdigest()
    return digests


def _is_template(path: Path) -> bool:
    return path.name == TEMPLATE_FILE or path.parent.name == TEMPLATE_FOLDER
