"""The tokenizer of a folder, for both stages: text to token ids and back, BOS and EOS, chat template, ends of turns.

Importing this module needs neither `tokenizers` nor Jinja: they are imported when a tokenizer is loaded.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oddsmill.schemas.chat.added_tokens import AddedToken, BesideToken, add_tokens, changes, tokens_beside
from oddsmill.schemas.chat.bos import AddBos, post_processor, writing_bos
from oddsmill.schemas.chat.special_tokens import TOKENIZER_CONFIG, read_json_object, read_special_tokens
from oddsmill.schemas.chat.template import ChatTemplate, given_template, read_templates
from oddsmill.schemas.engines.checked import PANIC, CheckedEngine
from oddsmill.schemas.engines.choice import EngineChoice
from oddsmill.schemas.engines.fast import FastEngine
from oddsmill.schemas.engines.flat import FlatIds, flatten
from oddsmill.schemas.errors import Refused, one_line

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_JSON = "tokenizer.json"


class TurnMarkers(NamedTuple):
    """The added tokens by which the chat template ends an answer's turn and begins the next one.

    Attributes:
      end: the ids that follow an answer, from the token that ends its turn on; empty where text ends it.
      start_id: the token that begins the next turn; None where text begins it.
    """

    end: list[int]
    start_id: int | None


class Tokenizer:
    """A `tokenizer.json` with the special tokens and the chat templates that stand beside it.

    Attributes:
      folder: where its files lie.
      special_tokens: texts by name (`bos_token`, …), as the files beside tokenizer.json give them.
      bos_id: None where the tokenizer has no BOS.
      adds_bos: BOS begins every text. A dialogue begins with what the chat template writes.
      given_template: the templates that replace the tokenizer's own, if one was given, or if BOS was written into them.
      chat_template: None where the tokenizer has none and none is given.
      content: the bytes of its tokenizer.json, the added tokens that stand beside it among its own.
      core: the tokenizer of the `tokenizers` library, without truncation and padding.
      engine: what `encode_flat` takes in place of `core`, if something else.
    """

    def __init__(self, folder: str | Path, *, chat_template: str | None = None, add_bos: AddBos = "auto"):
        """Loads a folder.

        Args:
          chat_template: a file, the name of one of the tokenizer's templates, or the text of one; it replaces the
            tokenizer's own.
          add_bos: whether BOS begins texts and dialogues, where it is not as the folder says (schemas/chat/bos.py).

        Raises:
          Refused: no tokenizer.json, a broken one, no such template, or no BOS to add.
        """
        self.folder = Path(folder)
        path = self.folder / TOKENIZER_JSON
        if not path.is_file():
            raise Refused(
                f"{folder} has no {TOKENIZER_JSON}: copy the model's there, or save it with transformers: "
                "AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
            )
        self.content = path.read_bytes()
        try:
            self.core = _parse(self.content)
            beside = tokens_beside(self.folder)
            if changes(map(_added_token, self.core.get_added_tokens_decoder().values()), beside):
                self.content = _with_added_tokens(self.content, self.core, beside, self.folder)
                self.core = _parse(self.content)
        except Refused:
            raise
        except Exception as error:  # the binding raises plain Exception
            raise Refused(f"{path}: not a tokenizer.json ({one_line(error)})") from error
        self.special_tokens = read_special_tokens(self.folder)
        self.bos_id = self.special_id("bos_token")
        config = read_json_object(self.folder / TOKENIZER_CONFIG)
        templates = read_templates(self.folder, config)
        self.given_template: str | dict[str, str] | None = None
        if chat_template:
            templates = self.given_template = given_template(chat_template, templates)
        if add_bos is True and templates:
            self._require_bos()
            written = writing_bos(templates, self.special_tokens)
            if written != templates:
                templates = self.given_template = written
        self.adds_bos = self._begin_texts(add_bos, declared=config.get("add_bos_token") is True)
        self.chat_template = ChatTemplate(templates, self.special_tokens) if templates else None
        self.engine: CheckedEngine | None = None
        self._is_space = cache(lambda token: not self.decode([token]).strip())

    def _require_bos(self) -> None:
        if self.bos_id is None:
            raise Refused(f"--add_bos=true: the tokenizer in {self.folder} has no bos_token; leave it out")

    def _begin_texts(self, add_bos: AddBos, *, declared: bool) -> bool:
        """Settles whether texts begin with BOS, and writes that into `content` where it says otherwise."""
        own = self.bos_id is not None and self.core.encode("").ids[:1] == [self.bos_id]
        wanted = own or declared if add_bos == "auto" else bool(add_bos)
        if add_bos is True:
            self._require_bos()
        if self.bos_id is None or wanted == own:
            return own
        ends = self.core.encode("").ids[int(own) :] == [self.special_id("eos_token")]
        bos, eos = self.special_tokens["bos_token"], self.special_tokens["eos_token"] if ends else None
        settings = json.loads(self.content)
        settings["post_processor"] = post_processor(bos if wanted else None, eos, self.core.get_vocab())
        self.content = _as_bytes(settings)
        return wanted

    def special_id(self, name: str) -> int | None:
        """Returns the id of a special token (`eos_token`, …); None where there is none, or the vocabulary lacks it."""
        token = self.special_tokens.get(name)
        return None if token is None else self.core.token_to_id(token)

    @cached_property
    def eos_id(self) -> int:
        """The id of the end of sequence.

        Raises:
          Refused: the tokenizer has none.
        """
        eos_id = self.special_id("eos_token")
        if eos_id is None:
            raise Refused(
                f"{self.folder}: the tokenizer names no eos_token, so an answer could not end. "
                f'Write "eos_token": "…" into its {TOKENIZER_CONFIG}'
            )
        return eos_id

    @cached_property
    def vocab_size(self) -> int:
        """The highest id + 1, added tokens included: there may be more ids than tokens."""
        count: int = self.core.get_vocab_size(with_added_tokens=True)
        if None not in map(self.core.id_to_token, range(count)):  # as mostly; a table of all tokens takes 0.2 s
            return count
        return max(self.core.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Encodes a text, with no special token added."""
        try:
            ids: list[int] = self.core.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise self._explained(error, text) from error
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes each text, with no special token added; one call spreads its texts over the cores."""
        try:
            return [encoding.ids for encoding in self.core.encode_batch_fast(texts, add_special_tokens=False)]
        except BaseException as error:
            if type(error).__name__ != PANIC:
                raise
            return list(map(self.encode, texts))  # which names the text

    def use_engine(self, choice: EngineChoice) -> None:
        """Lets `encode_flat` use the engine of a run.

        Raises:
          Unusable: it is fastokens, which is not installed here, or does not take the tokenizer.
        """
        if choice.name == "fastokens":
            self.engine = CheckedEngine(FastEngine(self.content), self, prefix=choice.prefix)

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """Encodes each text as `encode_batch` does, into one array.

        Raises:
          RunFailed: the engine is another one, and gives other ids.
        """
        return flatten(self.encode_batch(texts)) if self.engine is None else self.engine.encode_flat(texts)

    def _explained(self, error: BaseException, text: str) -> BaseException:
        """Returns what to raise: a panic of the library, which is no `Exception`, is a refusal that quotes the text."""
        if type(error).__name__ != PANIC:
            return error
        begin = json.dumps(text[:60])
        return Refused(f"the tokenizer in {self.folder} fails on a text that begins with {begin} ({one_line(error)})")

    def with_bos(self, ids: list[int]) -> list[int]:
        """Returns the ids of a text with BOS at their head, if texts begin with it; it is added only where it lacks."""
        return [self.bos_id, *ids] if self.bos_id is not None and self.lacks_bos(ids) else ids

    def lacks_bos(self, ids: Sequence[int]) -> bool:
        """Says whether texts begin with BOS and these ids of one do not."""
        return self.adds_bos and (not ids or ids[0] != self.bos_id)

    def token_starts(self, text: str) -> list[int]:
        """Returns the character at which each token of a text begins, ascending."""
        return [start for start, _ in self.core.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Returns the text of ids."""
        text: str = self.core.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str:
        """Returns the token as it stands in the vocabulary."""
        return self.core.id_to_token(token_id) or f"<{token_id}>"

    def readable(self, token_id: int) -> str:
        """Returns the text of a token; its name in the vocabulary, where it is only a part of a character's bytes."""
        # A SentencePiece decoder takes the space from the head of a text, so the token is shown as the second of two.
        text = self.decode([token_id, token_id]).removeprefix(self.decode([token_id]))
        return self.token(token_id) if "\ufffd" in text else text

    def quote(self, ids: Sequence[int]) -> str:
        """Returns the text of each token in quotes, for messages; `nothing` where there is none."""
        return " ".join(repr(self.readable(token_id)) for token_id in ids) or "nothing"

    def is_space(self, token_id: int) -> bool:
        """Says whether the token stands for white space alone."""
        return self._is_space(token_id)

    @cached_property
    def answer_ends(self) -> frozenset[int]:
        """The tokens that end an answer: EOS, and the one that the chat template writes after an answer."""
        eos_id = self.special_id("eos_token")
        return frozenset(self.turn_markers.end[:1]) | (frozenset() if eos_id is None else {eos_id})

    @cached_property
    def turn_markers(self) -> TurnMarkers:
        """The tokens that end and begin turns, read off a dialogue that the chat template renders."""
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        end: list[int] = []
        following: list[int] = []
        # A template that fails on these turns, or cannot be used, says so when it is needed; some take two turns alone.
        with suppress(Refused):
            end = self._ids_after_answer(turns)
            following = self._ids_after_answer([*turns, {"role": "user", "content": "next"}])
        start = next((token for token in following[1:] if not self.is_space(token)), None)
        return TurnMarkers(end, start if start in self._added_tokens and start not in end else None)

    def _ids_after_answer(self, turns: list[dict[str, str]]) -> list[int]:
        """Returns the ids between `answer` and `next` in the rendered turns, from the first added token on."""
        if self.chat_template is None:
            return []
        text = self.chat_template.render(turns, date="2000-01-01").rpartition("answer")[2].partition("next")[0]
        ids = self.encode(text)
        return ids[next((place for place, token in enumerate(ids) if token in self._added_tokens), len(ids)) :]

    @property
    def added_tokens(self) -> list[str]:
        """The added tokens, as they stand in texts."""
        return [token.content for token in self.core.get_added_tokens_decoder().values()]

    @cached_property
    def _added_tokens(self) -> frozenset[int]:
        return frozenset(self.core.get_added_tokens_decoder())


def _added_token(token: "tokenizers.AddedToken") -> AddedToken:
    return AddedToken(token.content, token.lstrip, token.rstrip, token.single_word, token.normalized, token.special)


def _with_added_tokens(
    content: bytes, core: "tokenizers.Tokenizer", beside: Sequence[BesideToken], folder: Path
) -> bytes:
    """Returns a tokenizer.json that lists the tokens beside it too."""
    settings = json.loads(content)
    vocabulary = core.get_vocab(with_added_tokens=False)
    settings["added_tokens"] = add_tokens(vocabulary, settings.get("added_tokens") or [], beside, folder=folder)
    return _as_bytes(settings)


def _as_bytes(settings: dict[str, Any]) -> bytes:
    return json.dumps(settings, ensure_ascii=False, indent=2).encode()


@lru_cache(maxsize=1)
def _parse(content: bytes) -> "tokenizers.Tokenizer":
    """Parses a tokenizer.json once a process: that takes a third of a second, and loaders often ask for the same."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
