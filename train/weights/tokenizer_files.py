"""The tokenizer in an exported folder, written so that transformers 4 and 5 make the ids that the model was trained on.

Both build some tokenizer classes anew from the vocabulary, without the normalizer and the pre-tokenizer of
tokenizer.json (transformers 5: LlamaTokenizer, GemmaTokenizer and others). The class PreTrainedTokenizerFast, which
transformers 5 calls TokenizersBackend, takes tokenizer.json as it is, in both.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from oddsmill.schemas.chat.special_tokens import TOKENIZER_CONFIG, read_json_object
from oddsmill.schemas.chat.tokenizer import TOKENIZER_JSON
from oddsmill.schemas.console import log
from oddsmill.schemas.files import check_own, is_own
from oddsmill.train.model.families import FAMILIES

# Files that preprocessing does not use. tokenizer.json holds the same, but some tools read these.
FURTHER_FILES = ("added_tokens.json", "merges.txt", "tokenizer.model", "vocab.json")
# Settings that lead away from tokenizer.json: code of another folder, files of another machine, a conversion.
_LEADING_AWAY = ("auto_map", "from_slow", "split_special_tokens", "tokenizer_file", "vocab_file")


def copy_tokenizer(folder: Path, tokenizer_folder: Path, model_folder: Path) -> None:
    """Copies the tokenizer and the chat template of the rows into a folder.

    If the model's folder holds that tokenizer, its further files are copied too, but for links to elsewhere.

    Raises:
      Refused: a file of the rows' tokenizer is a link that leads out of its folder.
    """
    _copy_folder(tokenizer_folder, folder)
    if (model_folder / TOKENIZER_JSON).is_file():  # the same as the rows': weights/model_files.py checks it
        for name in FURTHER_FILES:
            path = model_folder / name
            if not path.is_file() or (folder / name).exists():
                continue
            if is_own(path, model_folder, beside=TOKENIZER_JSON):
                shutil.copyfile(path, folder / name)
            else:
                log.warning(f"{path} is a link to {os.path.realpath(path)}, outside its folder: it is not copied")


def export_tokenizer(folder: Path, tokenizer_folder: Path) -> None:
    """Copies a tokenizer into a folder of which transformers 4 and 5 load tokenizer.json as it is.

    Raises:
      Refused: tokenizer_config.json cannot be read, or a file is a link that leads out of the folder.
    """
    _copy_folder(tokenizer_folder, folder)
    config = read_json_object(tokenizer_folder / TOKENIZER_CONFIG)
    content = read_json_object(tokenizer_folder / TOKENIZER_JSON)
    text = json.dumps(obeying(config, content), indent=2, ensure_ascii=False) + "\n"
    (folder / TOKENIZER_CONFIG).write_text(text, encoding="utf-8")


def _copy_folder(source: Path, target: Path) -> None:
    """Copies a tokenizer's folder; a link that leads out of it is refused, so that no other file is given away."""

    def copy(path: str, to: str) -> str:
        check_own(Path(path), source)
        return shutil.copyfile(path, to)

    shutil.copytree(source, target, copy_function=copy, dirs_exist_ok=True)


def obeying(config: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a tokenizer_config.json so that transformers takes tokenizer.json as it is.

    Args:
      content: of tokenizer.json.
    """
    config = {name: value for name, value in config.items() if name not in _LEADING_AWAY}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    further = config.get("extra_special_tokens")
    if isinstance(further, list):  # transformers 4 takes no list of them, and 5 takes either name
        config.pop("extra_special_tokens")
        further = [token.get("content") if isinstance(token, dict) else token for token in further]
        config["additional_special_tokens"] = further or config.get("additional_special_tokens") or []
    # transformers 4 writes this setting into a pre-tokenizer that has it.
    prefix = (content.get("pre_tokenizer") or {}).get("add_prefix_space")
    if prefix is not None:
        config["add_prefix_space"] = prefix
    return config


def note_on_class(folder: Path, model_type: str | None) -> str | None:
    """Returns what a user must know where transformers 5 takes another class than the folder of an export names.

    Args:
      folder: the exported folder.
      model_type: of config.json.
    """
    family = FAMILIES.get(model_type or "")
    if family is None or family.forced_split is None:
        return None
    if _is_of_class(read_json_object(folder / TOKENIZER_JSON), family.forced_split):
        return None
    return (
        f"transformers 5 loads the tokenizer of every {model_type} model by a class of its own, which makes other ids "
        "than this tokenizer.json: load it by PreTrainedTokenizerFast.from_pretrained(FOLDER), not by AutoTokenizer"
    )


def _is_of_class(content: dict[str, Any], pattern: str) -> bool:
    pre_tokenizer = content.get("pre_tokenizer") or {}
    patterns = [part.get("pattern", {}).get("Regex") for part in pre_tokenizer.get("pretokenizers", [])]
    return (content.get("normalizer") or {}).get("type") == "NFC" and pattern in patterns
