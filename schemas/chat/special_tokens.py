"""The special tokens that stand beside a tokenizer.json."""

import json
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused, one_line

SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG = "special_tokens_map.json", "tokenizer_config.json"
SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_special_tokens(folder: str | Path) -> dict[str, str]:
    """Reads the special tokens of a tokenizer's folder, those that are there, under the names that templates know.

    What tokenizer_config.json says wins over special_tokens_map.json, a null too.

    Raises:
      Refused: one of the two files is not a JSON object.
    """
    tokens: dict[str, Any] = {}
    for file_name in (SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        settings = read_json_object(Path(folder) / file_name)
        tokens |= {name: settings[name] for name in SPECIAL_TOKEN_NAMES if name in settings}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; it is empty where there is no such file.

    Of two equal keys the last counts, as in transformers, which reads the same files.

    Raises:
      Refused: broken JSON, what UTF-8 cannot hold, or something else than an object.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if "\\ud" in text.lower():  # an escaped half of a character, which no text of a tokenizer can hold
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: broken JSON ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise Refused(f"{path}: not a JSON object")
    return values
