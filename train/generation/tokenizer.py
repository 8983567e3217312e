"""The tokenizer of a model's folder, as generation needs it: text to ids and back, chat template, ends of answers."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from oddsmill.schemas.chat.special_tokens import TOKENIZER_CONFIG, read_json_object, read_special_tokens
from oddsmill.schemas.chat.template import ChatTemplate, given_template, read_templates
from oddsmill.schemas.errors import Refused


class Tokenizer:
    """A `tokenizer.json` with what stands beside it.

    Attributes:
      chat_template: None where the folder has none and none is given.
    """

    def __init__(self, folder: str | Path, *, chat_template: str | None = None):
        """Loads a folder.

        Args:
          chat_template: a file, the name of one of the tokenizer's templates, or the text of one, instead of its own.

        Raises:
          Refused: no tokenizer.json, a broken one, or no such template.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise Refused(f"{folder} has no tokenizer.json: copy the files of the model's tokenizer there")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises plain Exception
            raise Refused(f"{path}: not a tokenizer.json ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special_tokens = read_special_tokens(folder)
        self._bos_id = self._id_of(special_tokens.get("bos_token"))
        self._eos_id = self._id_of(special_tokens.get("eos_token"))
        templates = read_templates(Path(folder), read_json_object(Path(folder) / TOKENIZER_CONFIG))
        if chat_template:
            templates = given_template(chat_template, templates)
        self.chat_template = ChatTemplate(templates, special_tokens) if templates else None

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt: BOS at the head if the tokenizer has one and the text does not begin with it."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if self._bos_id is None or ids[:1] == [self._bos_id] else [self._bos_id, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode_answer(self, prompt: Sequence[int], answer: Sequence[int]) -> str:
        """The text of an answer as it goes on from its prompt: alone, some tokenizers would drop its leading space."""
        start, whole = self.decode(prompt), self.decode([*prompt, *answer])
        return whole[len(start) :] if whole.startswith(start) else self.decode(answer)

    @property
    def stop_ids(self) -> set[int]:
        """Tokens that end an answer: EOS, and what the chat template writes after the assistant's turn."""
        return {token for token in (self._eos_id, self._end_of_turn_id()) if token is not None}

    def _end_of_turn_id(self) -> int | None:
        if self.chat_template is None:
            return None
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            _, _, tail = self.chat_template.render(turns, date="2000-01-01").rpartition("answer")
        except Refused:  # it fails on these turns, or cannot be used: that is said when it is needed
            return None
        written = self._tokenizer.encode(tail, add_special_tokens=False).ids
        visible = [token for token in written if self._tokenizer.decode([token], skip_special_tokens=False).strip()]
        added = self._tokenizer.get_added_tokens_decoder()
        return next((token for token in visible if token in added), None)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)
