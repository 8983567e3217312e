"""Why a row was dropped. Every row that goes in comes out as a pair or stands here with its reason."""

import enum
from typing import NamedTuple


class DropReason(enum.StrEnum):
    """The reasons a row can be dropped for, as they stand in the ledger and in rejects/."""

    UNREADABLE = "unreadable"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_ANSWER = "empty_answer"
    IDENTICAL_ANSWERS = "identical_answers"
    BAD_ROLES = "bad_roles"
    NO_COMMON_PROMPT = "no_common_prompt"
    TIE = "tie"
    SWAPPED_SCORES = "swapped_scores"
    UNSUPPORTED_CONTENT = "unsupported_content"
    TEMPLATE_ERROR = "template_error"
    TEMPLATE_NOT_PREFIX = "template_not_prefix"
    TRL_ERROR = "trl_error"
    USER_FUNCTION = "user_function"
    PROMPT_TOO_LONG = "prompt_too_long"
    ANSWER_TOO_LONG = "answer_too_long"
    PAIR_TOO_LONG = "pair_too_long"
    DUPLICATE = "duplicate"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    DropReason.UNREADABLE: "broken JSON, invalid UTF-8, or a lone surrogate",
    DropReason.WRONG_TYPE: "not an object, or a field of another kind than its format has",
    DropReason.MISSING_FIELD: "a field is not there",
    DropReason.EMPTY_PROMPT: "the prompt is empty or white space",
    DropReason.EMPTY_ANSWER: "an answer is empty or white space",
    DropReason.IDENTICAL_ANSWERS: "chosen and rejected are the same",
    DropReason.BAD_ROLES: "the turns of a dialogue do not lead to an answer, or a role is not known",
    DropReason.NO_COMMON_PROMPT: "chosen and rejected do not share a prompt",
    DropReason.TIE: "no answer is better than another",
    DropReason.SWAPPED_SCORES: "the scores say that rejected is better than chosen",
    DropReason.UNSUPPORTED_CONTENT: "a message holds an image, a sound or another part that is not text",
    DropReason.TEMPLATE_ERROR: "the chat template fails on the messages",
    DropReason.TEMPLATE_NOT_PREFIX: "no rendering of the prompt begins the rendering of both sides",
    DropReason.TRL_ERROR: "compat trl: TRL raises on this row",
    DropReason.USER_FUNCTION: "the user's function raised, or gave None",
    DropReason.PROMPT_TOO_LONG: "the prompt does not fit beside the answers",
    DropReason.ANSWER_TOO_LONG: "an answer does not fit",
    DropReason.PAIR_TOO_LONG: "prompt, chosen and rejected together exceed row_length",
    DropReason.DUPLICATE: "another row has the same texts",
}


class Dropped(Exception):
    """Raised by the pure functions where a row cannot become a pair; `detail` says what exactly."""

    def __init__(self, reason: DropReason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Origin(NamedTuple):
    """Where a row stands: its file's number in the list of inputs, and its line or record there, from 0."""

    file: int
    row: int


class Reject(NamedTuple):
    """One dropped row; `raw` is the whole of it, as text."""

    origin: Origin
    reason: DropReason
    detail: str
    raw: str
