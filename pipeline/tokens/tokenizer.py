"""The tokenizer of a run: finding and checking it, its summary in the manifest, its copy beside the dataset."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from oddsmill.pipeline.config import DatasetSettings
from oddsmill.schemas.chat.added_tokens import ADDED_TOKENS
from oddsmill.schemas.chat.bos import AddBos, template_writes_bos
from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.chat.special_tokens import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, read_json_object
from oddsmill.schemas.chat.template import TEMPLATE_FILE, TEMPLATE_FOLDER
from oddsmill.schemas.chat.tokenizer import TOKENIZER_JSON, Tokenizer
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.hub import find_folder
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.schemas.stores import fetch_folder, is_remote

TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TEMPLATE_FILE)


def load_tokenizer(folder: str | Path, *, chat_template: str | None = None, add_bos: AddBos = "auto") -> Tokenizer:
    """Loads a tokenizer and checks that answers can end and that its special tokens are in its vocabulary.

    Args:
      chat_template, add_bos: as `Tokenizer` takes them.

    Raises:
      Refused: as `Tokenizer`; no end-of-sequence token; a BOS or EOS that the vocabulary lacks.
    """
    tokenizer = Tokenizer(folder, chat_template=chat_template, add_bos=add_bos)
    for name in ("bos_token", "eos_token"):
        token = tokenizer.special_tokens.get(name)
        if token is not None and tokenizer.special_id(name) is None:
            raise Refused(f"{folder}: {name} {token!r} is not in the vocabulary of {TOKENIZER_JSON}")
    _ = tokenizer.eos_id  # raises where there is none
    return tokenizer


def load_for_run(folder: str | Path, config: DatasetSettings) -> Tokenizer:
    """Loads the tokenizer as a run's settings have it; TRL begins every text with BOS.

    Raises:
      Refused: as `load_tokenizer`.
    """
    add_bos: AddBos = "texts" if config.compat == "trl" else config.add_bos
    return load_tokenizer(folder, chat_template=config.chat_template, add_bos=add_bos)


def describe_bos(tokenizer: Tokenizer, *, texts: bool, dialogues: bool) -> Iterator[str]:
    """Says for people whether BOS begins rows, and why.

    Args:
      texts, dialogues: the rows are such.
    """
    bos = tokenizer.special_tokens.get("bos_token")
    if bos is None:
        yield "the tokenizer has none"
        return
    if texts:
        declared = read_json_object(tokenizer.folder / TOKENIZER_CONFIG).get("add_bos_token")
        yield (
            f"{bos} begins each text"
            if tokenizer.adds_bos
            else f"none begins a text, since the tokenizer adds none ({bos})"
        )
        if declared is False and tokenizer.adds_bos:
            yield f"note: {TOKENIZER_CONFIG} has add_bos_token=false, and {TOKENIZER_JSON} adds it; see --add_bos"
    if dialogues and tokenizer.chat_template is not None:
        writes = template_writes_bos(tokenizer.chat_template, bos)
        if writes is not None:
            yield (
                f"{bos} begins each dialogue, as the chat template writes it"
                if writes
                else (f"none begins a dialogue, since the chat template writes none ({bos})")
            )
        if writes is False and tokenizer.adds_bos:
            yield "note: the tokenizer adds it to a text, and the chat template does not write it; see --add_bos"


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
        adds_bos=tokenizer.adds_bos,
    )


def copy_tokenizer(tokenizer: Tokenizer, target: Path) -> None:
    """Writes the tokenizer's files, so that the dataset holds all that is needed to use it.

    A template that was given stands there in place of the tokenizer's own, and tokenizer.json lists the added tokens
    that stood beside it and adds BOS where the rows have it, so that every library makes the ids of the rows.
    """
    for name, content in _contents(tokenizer).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


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
    return {name: hashlib.sha256(content).hexdigest() for name, content in _contents(tokenizer).items()}


def _contents(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Returns the files of the copy beside a dataset, by name."""
    paths = tokenizer_files(tokenizer.folder)
    if tokenizer.given_template is not None:
        paths = [path for path in paths if path.name != TEMPLATE_FILE and path.parent.name != TEMPLATE_FOLDER]
    contents = {str(path.relative_to(tokenizer.folder)): path.read_bytes() for path in paths}
    contents[TOKENIZER_JSON] = tokenizer.content
    config = read_json_object(tokenizer.folder / TOKENIZER_CONFIG)
    if config.get("add_bos_token") is True and not tokenizer.adds_bos:
        config["add_bos_token"] = False
        contents[TOKENIZER_CONFIG] = json.dumps(config, indent=2, ensure_ascii=False).encode()
    given = tokenizer.given_template
    named = {"default": given} if isinstance(given, str) else given or {}
    for name, template in named.items():
        contents[TEMPLATE_FILE if name == "default" else f"{TEMPLATE_FOLDER}/{name}.jinja"] = template.encode()
    return contents
