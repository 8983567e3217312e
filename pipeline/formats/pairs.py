"""A preference pair as texts or as messages, then as token ids."""

import enum
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.record import WHOLE, Spans, Truncated

Message = dict[str, Any]
Ids: TypeAlias = "array[int]"  # int32; a list would take eight times the memory, and the time of making its numbers
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder a call


class Notes(enum.IntFlag):
    """Properties of a pair that the manifest counts, each under its label."""

    BOUNDARY_MERGED = 1
    SPLIT_AT_TURN = 2
    TURNS_DROPPED = 4
    TURN_CUT = 8
    PROMPTS_DIFFER = 16
    SYSTEM_NOT_RENDERED = 32
    TURNS_NOT_RENDERED = 64
    ANSWERS_NOT_RENDERED = 128
    REASONING_NOT_RENDERED = 256
    PAST_REASONING_NOT_RENDERED = 512
    TOOLS_NOT_RENDERED = 1024
    TOOL_CALLS_NOT_RENDERED = 2048
    DOCUMENTS_NOT_RENDERED = 4096
    NAMES_NOT_RENDERED = 8192
    WHITE_SPACE_ALONE = 16384
    CASE_ALONE = 32768
    VARIABLES_NOT_READ = 65536

    @property
    def label(self) -> str:
        """The name of one note, as the manifest has it."""
        return str(self.name).lower()


NOTE_MEANINGS = {
    Notes.BOUNDARY_MERGED: "pairs with a token that spans the end of the prompt's text",
    Notes.SPLIT_AT_TURN: "pairs whose answers begin with the header of their turn, "
    "as the template's prompt is no prefix",
    Notes.TURNS_DROPPED: "pairs whose oldest turns gave way to the length rules",
    Notes.TURN_CUT: "pairs that lost a part of the text of a turn to the length rules",
    Notes.PROMPTS_DIFFER: "compat trl: pairs whose sides had different prompts; they share what is common",
    Notes.SYSTEM_NOT_RENDERED: "pairs with a system turn that the chat template does not write",
    Notes.TURNS_NOT_RENDERED: "pairs with a text of an earlier turn that the chat template does not write",
    Notes.ANSWERS_NOT_RENDERED: "pairs with a text of an answer that the chat template does not write",
    Notes.REASONING_NOT_RENDERED: "pairs with reasoning of an answer that the chat template does not write: the model "
    "learns the answer without it",
    Notes.PAST_REASONING_NOT_RENDERED: "pairs with reasoning of an earlier turn that the chat template does not write, "
    "which many templates leave out on purpose",
    Notes.TOOLS_NOT_RENDERED: "pairs with tools that the chat template does not write",
    Notes.TOOL_CALLS_NOT_RENDERED: "pairs with a call of a tool that the chat template does not write",
    Notes.DOCUMENTS_NOT_RENDERED: "pairs with documents that the chat template does not write",
    Notes.NAMES_NOT_RENDERED: "pairs with the name of a speaker that the chat template does not write",
    Notes.VARIABLES_NOT_READ: "pairs whose row gives the chat template a variable that it does not read",
    Notes.WHITE_SPACE_ALONE: "pairs whose sides differ in white space alone",
    Notes.CASE_ALONE: "pairs whose sides differ in upper and lower case alone, or in it and white space",
}
NOTHING = Notes(0)


class PreferencePair(NamedTuple):
    """The three texts of a pair. The model reads prompt + chosen and prompt + rejected."""

    prompt: str
    chosen: str
    rejected: str


class _ChatTexts(NamedTuple):
    prompt: str
    chosen: str
    rejected: str
    variables: str = "{}"


class ChatPair(_ChatTexts):
    """A pair of dialogues, to be rendered by a chat template.

    Attributes:
      prompt: the messages that both sides share, as JSON text: texts hash and travel alike in all formats.
      chosen, rejected: the messages that follow.
      variables: what else the row gives to the template (`tools`, …), a JSON object.
      is_plain: the row gives no variables, and `chat_pair` saw that its messages have a role and a text alone, in this
        order.
    """

    is_plain = False
    _messages: tuple[list[Message], list[Message], list[Message]] | None = None

    def messages(self) -> tuple[list[Message], list[Message], list[Message]]:
        """Returns the messages of prompt, chosen and rejected, which nobody may change."""
        if self._messages is None:
            self._messages = json.loads(self.prompt), json.loads(self.chosen), json.loads(self.rejected)
        return self._messages

    def row_variables(self) -> dict[str, Any]:
        """Returns what else the row gives to the template."""
        found: dict[str, Any] = {} if self.variables == "{}" else json.loads(self.variables)
        return found

    def __getstate__(self) -> None:
        """The texts alone travel between processes."""


Pair = PreferencePair | ChatPair


def chat_pair(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], variables: dict[str, Any] | None = None
) -> ChatPair:
    """Builds the pair of these messages, which may not be changed afterwards.

    Raises:
      Dropped: a text that cannot be encoded, or a value that JSON does not have.
    """
    if not variables and all(map(is_plain, (*prompt, *chosen, *rejected))):
        return plain_pair(prompt, chosen, rejected)
    try:
        pair = ChatPair(*map(_to_json, (prompt, chosen, rejected, variables or {})))
        for text in pair:
            text.encode()
    except UnicodeEncodeError:
        raise _has_surrogate() from None
    except (TypeError, ValueError) as error:
        raise Dropped(DropReason.WRONG_TYPE, f"a message holds what is not JSON: {error}") from None
    return pair


def plain_pair(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> ChatPair:
    """Builds what `chat_pair` does of messages for which `is_plain` holds.

    Raises:
      Dropped: a text that cannot be encoded.
    """
    try:
        pair = ChatPair(_plain_to_json(prompt), _plain_to_json(chosen), _plain_to_json(rejected))
    except TypeError:
        raise _has_surrogate() from None
    pair.is_plain, pair._messages = True, (prompt, chosen, rejected)  # such messages are what their JSON text says
    return pair


def _has_surrogate() -> Dropped:
    return Dropped(DropReason.UNREADABLE, "a lone surrogate in a message")


def is_plain(message: Message) -> bool:
    """Says whether a message has a role and a text alone, in this order."""
    return [*message] == ["role", "content"] and type(message["content"]) is type(message["role"]) is str


def _plain_to_json(messages: list[Message]) -> str:
    """Returns what `_to_json` does of plain messages, in a third of the time.

    Raises:
      TypeError: a lone surrogate.
    """
    members = [_with_role(message["role"]) + orjson.dumps(message["content"]) for message in messages]
    return (b"[" + b"}, ".join(members) + b"}]").decode() if members else "[]"


@lru_cache(maxsize=64)
def _with_role(role: str) -> bytes:
    """Returns the JSON text of a message up to its content."""
    return b'{"role": ' + orjson.dumps(role) + b', "content": '


class PairIds(NamedTuple):
    """The ids of a pair.

    Attributes:
      prompt, chosen, rejected: int32.
      unscored_chosen, unscored_rejected: the tokens of an answer that no loss counts, see `oddsmill.schemas.record`.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    truncated: Truncated = WHOLE
    notes: Notes = NOTHING
    unscored_chosen: Spans = ()
    unscored_rejected: Spans = ()

    @property
    def lengths(self) -> list[int]:
        """The numbers of tokens of prompt, chosen and rejected."""
        return [len(self.prompt), len(self.chosen), len(self.rejected)]

    @property
    def boundary_merged(self) -> bool:
        """True where a token spans the end of the prompt's text in one of the answers.

        The prompt's ids are then fewer than those of its text alone.
        """
        return Notes.BOUNDARY_MERGED in self.notes


@dataclass(frozen=True, kw_only=True)
class TokenizedPairs:
    """The ids of m of the pairs of a batch in columns, in any order, and why the others have none.

    Attributes:
      numbers: [m] int64, the number of each pair in the batch.
      ids: int32, prompt, chosen and rejected of one pair after those of another.
      lengths: [m, 3] int64, how many tokens these are.
      truncated: [m] uint8.
      notes: [m] int64.
      unscored: of pairs that have such, those of chosen and of rejected, as `PairIds` has them, by number.
      dropped: by number.
    """

    numbers: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    notes: np.ndarray
    unscored: Mapping[int, tuple[Spans, Spans]] = field(default_factory=dict)
    dropped: Mapping[int, Dropped] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Mapping[int, PairIds | Dropped]) -> "TokenizedPairs":
        """Makes columns of pairs, each with its number."""
        kept = {number: pair for number, pair in pairs.items() if isinstance(pair, PairIds)}
        sides = [side for pair in kept.values() for side in pair[:3]]
        return cls(
            numbers=np.array(list(kept), np.int64),
            ids=np.frombuffer(b"".join(sides), np.int32),
            lengths=np.array(list(map(len, sides)), np.int64).reshape(-1, 3),
            truncated=np.array([int(pair.truncated) for pair in kept.values()], np.uint8),
            notes=np.array([int(pair.notes) for pair in kept.values()], np.int64),
            unscored={
                number: (pair.unscored_chosen, pair.unscored_rejected)
                for number, pair in kept.items()
                if pair.unscored_chosen or pair.unscored_rejected
            },
            dropped={number: pair for number, pair in pairs.items() if isinstance(pair, Dropped)},
        )

    def __add__(self, other: "TokenizedPairs") -> "TokenizedPairs":
        """Joins two parts of a batch."""
        return TokenizedPairs(
            numbers=np.concatenate([self.numbers, other.numbers]),
            ids=np.concatenate([self.ids, other.ids]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            truncated=np.concatenate([self.truncated, other.truncated]),
            notes=np.concatenate([self.notes, other.notes]),
            unscored={**self.unscored, **other.unscored},
            dropped={**self.dropped, **other.dropped},
        )

    def unscored_as_bytes(self) -> list[bytes]:
        """Returns the runs of unscored tokens of each pair, counted from the prompt's first token, as [k, 2] int32."""
        found = [b""] * len(self.numbers)
        for line, number in enumerate(self.numbers.tolist() if self.unscored else ()):
            prompt, chosen, _ = self.lengths[line].tolist()
            spans = zip((prompt, prompt + chosen), self.unscored.get(number, ()), strict=False)
            found[line] = array(
                "i", [start + bound for start, runs in spans for run in runs for bound in run]
            ).tobytes()
        return found

    def by_number(self) -> dict[int, PairIds | Dropped]:
        """Returns each pair by itself."""
        pairs: dict[int, PairIds | Dropped] = dict(self.dropped)
        bounds = np.cumsum([0, *self.lengths.ravel()]).tolist()
        for line, number in enumerate(self.numbers.tolist()):
            prompt, chosen, rejected = (
                array("i", self.ids[begin:end].tobytes()) for begin, end in pairwise(bounds[3 * line : 3 * line + 4])
            )
            flags = Truncated(int(self.truncated[line])), Notes(int(self.notes[line]))
            pairs[number] = PairIds(prompt, chosen, rejected, *flags, *self.unscored.get(number, ((), ())))
        return pairs

    def __iter__(self) -> Iterator[PairIds | Dropped]:
        """Yields the pairs in the order of their numbers."""
        return (pair for _, pair in sorted(self.by_number().items(), key=itemgetter(0)))
