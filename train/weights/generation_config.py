"""Reads and writes generation_config.json, and knows which ids end an answer by it and by config.json."""

from pathlib import Path
from typing import Annotated, Any

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.files import is_own
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.schemas.typed_json import Malformed, Range, as_type, read_object

FILE = "generation_config.json"
_EOS = "eos_token_id"
_IDS = ("bos_token_id", _EOS, "pad_token_id")
_TokenId = Annotated[int, Range(-(2**31), 2**31 - 1)]  # some models name -1, which no token has


def stop_ids(folder: Path, hf_config: dict[str, Any]) -> set[int]:
    """Returns the ids that end an answer by generation_config.json and config.json; either may name one or several.

    Raises:
      Refused: a file holds something else there, or generation_config.json is no JSON object.
    """
    return {*_ids(read_generation_config(folder), folder / FILE), *_ids(hf_config, folder / "config.json")}


def exported_generation_config(folder: Path, hf_config: dict[str, Any], tokenizer: TokenizerSummary) -> dict[str, Any]:
    """Returns the model's own generation_config.json, or one made of the special ids of config.json and the tokenizer.

    The token that ended the answers in training is always among those that end a generation.

    Raises:
      Refused: as `stop_ids`.
    """
    content = read_generation_config(folder)
    if not (folder / FILE).is_file():
        # An id beyond the embedding pads rows, where it is never read; a generation would look it up.
        size = hf_config.get("vocab_size", tokenizer.vocab_size)
        pad_id = tokenizer.pad_id if tokenizer.pad_id < size else tokenizer.eos_id
        own = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": pad_id}
        ids = {f"{name}_token_id": (hf_config.get(f"{name}_token_id"), known) for name, known in own.items()}
        content = {name: known if given is None else given for name, (given, known) in ids.items()}
        content = {name: value for name, value in content.items() if value is not None}
    ends = _ids(content, folder / FILE)
    if tokenizer.eos_id not in ends:
        content[_EOS] = [*ends, tokenizer.eos_id] if ends else tokenizer.eos_id
    return content


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Returns the generation_config.json of a model's folder; empty where there is none.

    Of a link to elsewhere only the special ids are taken: the rest goes out with the trained model.

    Raises:
      Refused: it is no JSON object.
    """
    path = folder / FILE
    content = read_object(path, advice="correct or remove it") if path.is_file() else {}
    if is_own(path, folder, beside="config.json"):
        return content
    return {name: content[name] for name in _IDS if name in content}


def _ids(content: dict[str, Any], path: Path) -> list[int]:
    try:
        found = as_type(_TokenId | list[_TokenId] | None, content.get(_EOS), _EOS)
    except Malformed as problem:
        raise Refused(f"{path}: {problem}") from problem
    return found if isinstance(found, list) else [] if found is None else [found]
