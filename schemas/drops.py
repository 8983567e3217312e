"""The reasons to drop a row, and the drops: a row that goes in comes out as a pair, or in rejects/ with its reason."""

import enum
import functools
import os
import traceback
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from oddsmill.schemas.errors import Refused, RunFailed, one_line

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LONGEST_DETAIL = 1000


class DropReason(enum.StrEnum):
    """The reasons to drop a row, as the ledger and rejects/ name them, each with its meaning.

    Attributes:
      meaning: the reason in words, for people.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> "DropReason":
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason

    UNREADABLE = "unreadable", "broken JSON, invalid UTF-8, a lone surrogate, or nested too deep"
    WRONG_TYPE = "wrong_type", "not an object, or a field of another kind than its format has"
    MISSING_FIELD = "missing_field", "a field is not there"
    EMPTY_PROMPT = "empty_prompt", "the prompt is empty or white space"
    EMPTY_ANSWER = "empty_answer", "an answer is empty or white space"
    IDENTICAL_ANSWERS = "identical_answers", "chosen and rejected are the same"
    BAD_ROLES = "bad_roles", "the turns of a dialogue do not lead to an answer, or a role is not known"
    NO_COMMON_PROMPT = "no_common_prompt", "chosen and rejected do not share a prompt"
    TIE = "tie", "no answer is better than another"
    SWAPPED_SCORES = "swapped_scores", "the scores say that rejected is better than chosen"
    UNSUPPORTED_CONTENT = "unsupported_content", "the row holds an image, a sound or another part that is not text"
    TEMPLATE_ERROR = "template_error", "the chat template fails on the messages"
    TEMPLATE_NOT_PREFIX = "template_not_prefix", "no rendering of the prompt begins the rendering of both sides"
    NOT_RENDERED = "not_rendered", "require_rendered: the chat template does not write a text of the messages"
    TRL_ERROR = "trl_error", "compat trl: TRL raises on this row"
    USER_FUNCTION = "user_function", "the user's function raised, or gave None"
    PROMPT_TOO_LONG = "prompt_too_long", "the prompt does not fit beside the answers"
    ANSWER_TOO_LONG = "answer_too_long", "an answer does not fit"
    PAIR_TOO_LONG = "pair_too_long", "prompt, chosen and rejected together exceed row_length"
    DUPLICATE = "duplicate", "another row has the same texts"
    ROW_ERROR = "row_error", "an error of this program on the row: please report it, with the detail in rejects/"


class Dropped(Exception):
    """A row cannot become a pair; the pure functions raise it.

    Attributes:
      detail: says why exactly. It quotes rows, so it is cut where it is long, and UTF-8 can hold it.
    """

    def __init__(self, reason: DropReason, detail: str):
        detail = detail[:_LONGEST_DETAIL].encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def dropping_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function that handles one row: whatever the row makes it raise becomes `Dropped`.

    A refusal, a failure of the run and a lack of memory are no matter of the row; they pass.
    """

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except Dropped:
            raise
        except Exception as error:
            raise drop_of(error) from error

    return guarded


def drop_of(error: BaseException) -> Dropped:
    """Returns the drop of the row that made our code raise this.

    Raises:
      BaseException: the error itself, where it is no matter of the row.
    """
    if isinstance(error, Dropped):
        return error
    if isinstance(error, Refused | RunFailed | MemoryError):
        raise error
    if isinstance(error, RecursionError):
        return Dropped(DropReason.UNREADABLE, "nested deeper than can be read")
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = f"{os.path.basename(frame.f_code.co_filename)}:{line}"
    return Dropped(DropReason.ROW_ERROR, f"{type(error).__name__} in {place}: {one_line(error)}")


class Origin(NamedTuple):
    """The place of a row: its file's number in the list of inputs, and its line or record there, from 0."""

    file: int
    row: int


class Reject(NamedTuple):
    """One dropped row; `raw` is the whole of it, as text."""

    origin: Origin
    reason: DropReason
    detail: str
    raw: str
