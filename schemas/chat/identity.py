"""The identity of a tokenizer: all that decides which ids it makes of a text, and nothing else of its files.

Truncation, padding, the post-processor, the decoder, white space, the way merges are written, defaults that are spelled
out or left out: a tokenizer that transformers saves anew differs in these and makes the same ids.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from oddsmill.schemas.chat.added_tokens import add_tokens, tokens_beside
from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.manifest import Manifest, file_sha256
from oddsmill.schemas.typed_json import parse_json

# What a component does where its key is absent, of those keys that older versions did not write.
_DEFAULTS = {"ByteLevel": {"use_regex": True}, "Metaspace": {"split": True}}
_WITHOUT_EFFECT = ("trim_offsets", "str_rep")
_ADDED_TOKENS = "added tokens"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def ids_sha256(folder: Path) -> str:
    """Returns the digest of what decides the ids of a tokenizer's folder. Takes a third of a second for 128,000 tokens.

    Raises:
      Refused: a file cannot be read.
    """
    parts = _parts(folder)
    digests = {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def differences(manifest: Manifest, own: Path, other: Path) -> list[str]:
    """Names what makes other ids of the texts of a dataset in a second tokenizer; empty where nothing does.

    Added tokens of the dataset's tokenizer that no row holds make no difference: no text has them.

    Args:
      own: the folder of the dataset's tokenizer; it may be gone.
      other: the folder of the second one.
    """
    digest = manifest.tokenizer.ids_sha256
    if digest is None and file_sha256(other / "tokenizer.json") == manifest.tokenizer.sha256["tokenizer.json"]:
        return []
    try:
        if digest == ids_sha256(other):
            return []
        if not (own / "tokenizer.json").is_file():
            return ["tokenizer.json"]
        return _compare(_parts(own), _parts(other), manifest.max_token_id)
    except Refused as broken:
        return [f"tokenizer.json ({broken})"]


def _compare(ours: dict[str, Any], theirs: dict[str, Any], max_token_id: int) -> list[str]:
    found = []
    for name in ours:
        if ours[name] == theirs[name]:
            continue
        if name == _ADDED_TOKENS:
            found += _different_tokens(ours[name], theirs[name], max_token_id)
        elif name == "vocabulary" and len(ours[name]) != len(theirs[name]):
            found.append(f"vocabulary (of {len(ours[name]):,} and {len(theirs[name]):,} tokens)")
        else:
            found.append(name)
    return found


def _parts(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    try:
        content = parse_json(path.read_bytes(), finite=False)
        model = content["model"]
        vocabulary = _vocabulary(model)
        added = add_tokens(vocabulary, content.get("added_tokens") or [], tokens_beside(folder), folder=folder)
        return {
            "model": {"type": _type(model)} | _options(model),
            "vocabulary": _in_order(model["vocab"]),
            "merges": [_merge(merge) for merge in model.get("merges") or []],
            "normalizer": _component(content.get("normalizer")),
            "pre-tokenizer": _component(content.get("pre_tokenizer")),
            _ADDED_TOKENS: sorted(
                [token["id"], token["content"], *(bool(token.get(flag)) for flag in _FLAGS)] for token in added
            ),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path}: not a tokenizer.json ({one_line(error)})") from error


def _different_tokens(ours: list[Any], theirs: list[Any], max_token_id: int) -> list[str]:
    used = [token for token in ours if token[0] <= max_token_id or token in theirs]
    different = [token for token in used if token not in theirs] + [token for token in theirs if token not in used]
    contents = list(dict.fromkeys(repr(token[1]) for token in different))
    more = f" and {len(contents) - 3} more" if len(contents) > 3 else ""
    return [f"added token {', '.join(contents[:3])}{more}"] if contents else []


def _type(model: dict[str, Any]) -> str:
    """Returns the type of a model, which older files leave out."""
    if "type" in model:
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _options(model: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a model that have an effect: null, false, 0 and "" are what a missing one means."""
    options = {name: value for name, value in model.items() if name not in ("type", "vocab", "merges") and value}
    if not model.get("unk_token"):
        options.pop("fuse_unk", None)
    if "unk_id" in model and model["unk_id"] is not None:
        options["unk_id"] = model["unk_id"]  # 0 is a token
    return options


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """Returns the ids of a model's tokens; those of Unigram are the places in its list."""
    vocab = model["vocab"]
    return {entry[0]: place for place, entry in enumerate(vocab)} if isinstance(vocab, list) else vocab


def _in_order(vocab: Any) -> list[Any]:
    """Returns the tokens in the order of their ids, an id beside a token where ids are left out."""
    if isinstance(vocab, list):
        return vocab
    tokens = sorted(vocab, key=vocab.__getitem__)
    return [[token, vocab[token]] for token in tokens] if tokens and vocab[tokens[-1]] != len(tokens) - 1 else tokens


def _merge(merge: str | list[str]) -> str:
    return merge.replace(" ", "\0", 1) if isinstance(merge, str) else "\0".join(merge)


def _component(component: Any) -> Any:
    """Returns a normalizer or a pre-tokenizer without what has no effect; one that does nothing is None."""
    if isinstance(component, list):
        return [part for part in map(_component, component) if part is not None]
    if not isinstance(component, dict):
        return component
    kind = str(component.get("type"))
    settings = _DEFAULTS.get(kind, {}) | {
        name: _component(value) for name, value in component.items() if name not in _WITHOUT_EFFECT
    }
    if kind == "Metaspace" and "prepend_scheme" not in settings:
        settings["prepend_scheme"] = "always" if settings.get("add_prefix_space", True) else "never"
    if kind == "Metaspace":
        settings.pop("add_prefix_space", None)
    parts = settings.get("normalizers" if "normalizers" in settings else "pretokenizers")
    if kind == "Sequence" and parts is not None and len(parts) < 2:
        return parts[0] if parts else None
    return {name: value for name, value in settings.items() if value is not None}
