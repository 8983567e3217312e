"""The tokenizer: its files, its special tokens, and encoding many texts at once."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

import tokenizers

from oddsmill.pipeline.drops import Dropped
from oddsmill.pipeline.input.filesystems import is_remote
from oddsmill.pipeline.input.remote import fetch_folder
from oddsmill.pipeline.tokens.safe_cut import cuts_are_safe
from oddsmill.schemas.chat.special_tokens import (
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    read_json_object,
    read_special_tokens,
)
from oddsmill.schemas.chat.template import TEMPLATE_FILE, TEMPLATE_FOLDER, ChatTemplate, given_template, read_templates
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.hub import find_folder
from oddsmill.schemas.manifest import TokenizerSummary, file_sha256

TOKENIZER_FILES = ("tokenizer.json", TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, TEMPLATE_FILE)


class TextTokenizer:
    """A `tokenizer.json` with the special tokens that stand beside it.

    Attributes:
      bos_id: None where the tokenizer has none.
      pad_id: that of the end of sequence where the tokenizer has none of its own.
      chat_template: None where the tokenizer has none and none is given.
    """

    def __init__(self, folder: str | Path, *, chat_template: str | None = None):
        """Loads a folder.

        Args:
          chat_template: a file, the name of one of the tokenizer's templates, or the text of one, instead of
            the tokenizer's own.

        Raises:
          Refused: no tokenizer.json, a broken one, no end-of-sequence token, or no such template.
        """
        self._folder = Path(folder)
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise Refused(
                f"{folder} has no tokenizer.json. Save it with transformers: "
                "AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
            )
        try:
            self._tokenizer = _load(path.read_bytes())
        except Exception as error:  # the binding raises plain Exception
            raise Refused(f"{path}: not a tokenizer.json ({error})") from error
        self.cuts_are_safe = cuts_are_safe(self._tokenizer)
        self._special_tokens = read_special_tokens(self._folder)
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
        templates = read_templates(self._folder, read_json_object(self._folder / TOKENIZER_CONFIG))
        self._given_template = given_template(chat_template, templates) if chat_template else None
        templates = self._given_template or templates
        self.chat_template = ChatTemplate(templates, self._special_tokens) if templates else None
        self._is_space = cache(lambda token: not self.decode([token]).strip())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with no special token added."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def token_starts(self, text: str) -> list[int]:
        """The character at which each token of a text begins, ascending."""
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]

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
            sha256=self._file_digests(),
            chat_template_sha256=self.chat_template.sha256 if self.chat_template else None,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
            vocab_size=self.vocab_size,
            turn_end=self._turns[0],
            turn_start_id=self._turns[1],
        )

    def copy(self, target: Path) -> None:
        """Copies the tokenizer's files, so that the dataset holds all that is needed to use it.

        A template that was given stands there in place of the tokenizer's own.
        """
        for path in tokenizer_files(self._folder):
            if self._given_template is None or not _is_template(path):
                copy = target / path.relative_to(self._folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        if self._given_template is not None:
            (target / TEMPLATE_FILE).write_bytes(self._given_template.encode())

    @property
    def end_of_turn_id(self) -> int | None:
        """The token that the chat template writes after an answer; None without a template, or where it is text."""
        return self._turns[0][0] if self._turns[0] else None

    @cached_property
    def _turns(self) -> tuple[list[int], int | None]:
        """What the template writes after an answer, from the token that ends its turn on, and the token that begins
        the next turn; each only where it is a token of its own."""
        if self.chat_template is None:
            return [], None
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        added = self._tokenizer.get_added_tokens_decoder()

        def after_answer(messages: list[dict[str, str]]) -> list[int]:
            assert self.chat_template is not None
            text = self.chat_template.render(messages, date="2000-01-01").rpartition("answer")[2].partition("next")[0]
            ids = self.encode_batch([text])[0]
            return ids[next((place for place, token in enumerate(ids) if token in added), len(ids)) :]

        try:
            end = after_answer(turns)
            rest = after_answer([*turns, {"role": "user", "content": "next"}])
        except (Dropped, Refused):  # it fails on these turns, or cannot be used: that is said when it is needed
            return [], None
        begin = next((token for token in rest[1:] if not self.is_space(token)), None)
        return end, begin if begin in added and begin not in end else None

    def _file_digests(self) -> dict[str, str]:
        digests = {str(path.relative_to(self._folder)): file_sha256(path) for path in tokenizer_files(self._folder)}
        if self._given_template is not None:
            digests = {name: digest for name, digest in digests.items() if not _is_template(self._folder / name)}
            digests[TEMPLATE_FILE] = hashlib.sha256(self._given_template.encode()).hexdigest()
        return digests

    def _special_id(self, name: str, *, required: bool = True) -> int | None:
        token = self._special_tokens.get(name)
        if token is None:
            return None
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None and required:
            raise Refused(f"{self._folder}: {name} {token!r} is not in the vocabulary of tokenizer.json")
        return token_id


@lru_cache(maxsize=1)
def _load(content: bytes) -> tokenizers.Tokenizer:
    """A tokenizer.json, parsed once a process: that takes a third of a second, and the launcher's is the workers'."""
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def find_tokenizer(name: str, revision: str | None) -> Path:
    """The folder of a tokenizer: `name` itself, or a download of the hub's model of that id.

    Raises:
      Refused: neither is there.
    """
    if is_remote(name):
        return Path(fetch_folder(name))
    patterns = [*TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja"]
    folder = find_folder(name, revision, setting="tokenizer", revision_setting="tokenizer_revision", files=patterns)
    if not os.path.isdir(name) and not (folder / TOKENIZER_FILES[0]).is_file():
        raise Refused(
            f"--tokenizer={name}: the model has no {TOKENIZER_FILES[0]} on the hub, or in the cache where there is no "
            "connection. Save its tokenizer with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
        )
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer that exist in a folder."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return files + sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))


def _is_template(path: Path) -> bool:
    return path.name == TEMPLATE_FILE or path.parent.name == TEMPLATE_FOLDER
