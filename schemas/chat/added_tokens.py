"""The tokens that a tokenizer's folder adds beside tokenizer.json, with the ids that transformers 4 and 5 give them.

Both load tokenizer.json and then add, in this order: `added_tokens_decoder` of tokenizer_config.json, by id (where it
is missing, added_tokens.json); the special tokens by name; the further special tokens. A token that tokenizer.json has
keeps its id, with the flags of `added_tokens_decoder`. A new one has its id in the vocabulary, or the next free one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oddsmill.schemas.chat.special_tokens import (
    SPECIAL_TOKEN_NAMES,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    read_json_object,
)
from oddsmill.schemas.errors import Refused, one_line

ADDED_TOKENS = "added_tokens.json"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class AddedToken(NamedTuple):
    """A token that is looked for in a text before the text is split, with the flags that tokenizer.json has of it."""

    content: str
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool
    special: bool


class BesideToken(NamedTuple):
    """A token that a file beside tokenizer.json names.

    Attributes:
      file: the name of that file.
      id: the id that the file gives it; None where it gives none.
      overrides: its flags replace those of tokenizer.json.
      if_known: it is added only where the vocabulary has it. So it is with BOS and EOS: a model knows no others.
    """

    token: AddedToken
    file: str
    id: int | None = None
    overrides: bool = False
    if_known: bool = False


def tokens_beside(folder: Path) -> list[BesideToken]:
    """Lists the tokens that files beside tokenizer.json name, in the order in which transformers adds them.

    Raises:
      Refused: one of the files cannot be read, or holds something else than tokens.
    """
    config = read_json_object(folder / TOKENIZER_CONFIG)
    by_id = config.get("added_tokens_decoder")
    settings, file, ids = config, TOKENIZER_CONFIG, by_id or {}
    if by_id is None:
        settings, file = read_json_object(folder / SPECIAL_TOKENS_MAP) | config, ADDED_TOKENS
        ids = {index: content for content, index in read_json_object(folder / ADDED_TOKENS).items()}
    special = list(_special_tokens(settings))
    contents = {token.content for token, _ in special}
    beside = []
    try:
        for index, given in sorted((int(index), given) for index, given in ids.items()):
            token = _token(given, special=False)
            token = token._replace(special=token.special or token.content in contents)
            if by_id is None:
                token = token._replace(normalized=not token.special)
            beside.append(BesideToken(token, file, index, overrides=by_id is not None))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{folder / file}: its added tokens are not tokens by id ({one_line(error)})") from error
    return beside + [
        BesideToken(token, TOKENIZER_CONFIG, if_known=name in ("bos_token", "eos_token")) for token, name in special
    ]


def add_tokens(
    vocabulary: Mapping[str, int], added: Sequence[Mapping[str, Any]], beside: Iterable[BesideToken], *, folder: Path
) -> list[dict[str, Any]]:
    """Returns the added tokens of a tokenizer.json with those that stand beside it.

    Args:
      vocabulary: of the model, without added tokens.
      added: the tokens as tokenizer.json lists them.

    Raises:
      Refused: a file gives a new token an id that it cannot have.
    """
    tokens = {token["content"]: dict(token) for token in added}
    for each in beside:
        content, flags = each.token.content, dict(zip(_FLAGS, each.token[1:], strict=True))
        if content in tokens:
            if each.overrides:
                tokens[content] |= flags
            continue
        free = max([len(vocabulary), *(token["id"] + 1 for token in tokens.values())])
        index = vocabulary.get(content, free)
        if each.if_known and content not in vocabulary:
            continue
        if each.id not in (None, index):
            owner = next((other for other, token in tokens.items() if token["id"] == each.id), None)
            owner = owner or next((word for word, place in vocabulary.items() if place == each.id), None)
            taken = f"that is {owner!r} there" if owner else f"{index} is the next that is free there"
            raise Refused(
                f"{folder / each.file}: gives the token {content!r} the id {each.id}, which tokenizer.json lacks, and "
                f"{taken}: transformers would make {index} of it. Correct one of the two files"
            )
        tokens[content] = {"id": index, "content": content} | flags
    return list(tokens.values())


def changes(present: Iterable[AddedToken], beside: Iterable[BesideToken]) -> bool:
    """Says whether tokens beside tokenizer.json may change the added tokens that it has."""
    known = {token.content: token for token in present}
    return any(
        each.token.content not in known or (each.overrides and known[each.token.content] != each.token)
        for each in beside
    )


def _special_tokens(settings: Mapping[str, Any]) -> Iterator[tuple[AddedToken, str]]:
    """Yields the special tokens with their names: those that all know, those of this model, those without a name."""
    own = [name for name in settings if name.endswith("_token") and name not in SPECIAL_TOKEN_NAMES]
    given = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    further = given.values() if isinstance(given, dict) else given if isinstance(given, list) else []
    named = [(settings.get(name), name) for name in (*SPECIAL_TOKEN_NAMES, *own)]
    for given, name in [*named, *((token, "") for token in further)]:
        if isinstance(given, (str, dict)) and (given if isinstance(given, str) else given.get("content")):
            yield _token(given, special=True)._replace(special=True), name


def _token(given: str | dict[str, Any], *, special: bool) -> AddedToken:
    """Reads a token, with the flags that transformers gives one where the file leaves them out."""
    given = {"content": given} if isinstance(given, str) else given
    special = bool(given.get("special", special))
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": not special, "special": special}
    content = given["content"]
    if not isinstance(content, str):
        raise TypeError(f"{content!r} is no text")
    return AddedToken(content, **{name: bool(given.get(name, flags[name])) for name in _FLAGS})
