"""Tells whether BOS begins what a model reads: as it does at inference, in texts and in dialogues.

transformers begins a text with BOS where the post-processor of tokenizer.json does, and adds nothing to a dialogue that
the chat template has rendered: there the template writes BOS, or nobody does. `add_bos_token` of tokenizer_config.json
is read by some classes of transformers 4 alone; a BOS that it asks for and the post-processor leaves out is added.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.errors import Refused

# auto: as above. true, false: texts begin with BOS, or do not, and true has the chat templates write it, too.
# texts: texts begin with BOS, and templates stay as they are.
AddBos = bool | Literal["auto", "texts"]
_DIALOGUES = (
    [{"role": "user", "content": "question"}],
    [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}],
)


def post_processor(bos: str | None, eos: str | None, token_ids: Mapping[str, int]) -> dict[str, Any]:
    """Returns the post-processor, as tokenizer.json has it, that puts a text between these tokens; None is no token."""

    def part(sequence: str, type_id: int) -> list[dict[str, Any]]:
        tokens = [{"SpecialToken": {"id": token, "type_id": type_id}} if token else None for token in (bos, eos)]
        whole = [tokens[0], {"Sequence": {"id": sequence, "type_id": type_id}}, tokens[1]]
        return [each for each in whole if each]

    special = {token: {"id": token, "ids": [token_ids[token]], "tokens": [token]} for token in (bos, eos) if token}
    single = part("A", 0)
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *part("B", 1)], "special_tokens": special}


def template_writes_bos(template: ChatTemplate, bos: str) -> bool | None:
    """Says whether a chat template begins its text with BOS; None where it takes no dialogue of a user."""
    for dialogue in _DIALOGUES:
        with suppress(Refused):
            return template.render(dialogue, date="2000-01-01").startswith(bos)
    return None


def writing_bos(templates: str | dict[str, str], special_tokens: Mapping[str, str]) -> str | dict[str, str]:
    """Returns the templates so that each begins its text with BOS.

    Raises:
      Refused: a template takes no dialogue of a user, so what it begins with cannot be told.
    """
    if isinstance(templates, dict):
        return {name: str(writing_bos(text, special_tokens)) for name, text in templates.items()}
    writes = template_writes_bos(ChatTemplate(templates, special_tokens), special_tokens["bos_token"])
    if writes is None:
        raise Refused(
            "--add_bos=true: the chat template fails on a question of a user, so it cannot be told whether it writes "
            "BOS; give one that does by --chat_template"
        )
    return templates if writes else "{{ bos_token }}" + templates
