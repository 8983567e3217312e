"""The settings of `oddsmill train generate`."""

import datetime
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from oddsmill.schemas.errors import require
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.sampling import SamplingConfig

Chat = bool | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig):
    """Answers prompts with a model; of its generation_config.json the ids that end an answer are obeyed, no more.

    Args:
      model: which model.
      prompts: a JSONL file, {"prompt": "text"}, {"prompt": [messages]} or {"messages": [messages]} a row.
      prompt: one prompt, a text.
      out: the JSONL file to write; null: standard output.
      chat: `auto` renders messages by the chat template and takes texts as they stand, true takes a text as the
        message of a user, false refuses messages.
      chat_template: the template that renders messages: a file, the name of one of the tokenizer's, or itself.
      chat_template_kwargs: what the template sees beside the messages, e.g. {"enable_thinking": false}.
      chat_date: the day that the template's clock tells, YYYY-MM-DD; null: today.
      batch_size: answers at once.
      param_dtype: what weights are kept in.
      compute_dtype: what matrix products take; reductions are float32.
      mesh: how devices are arranged.
    """

    model: ModelConfig
    prompts: str | None = None
    prompt: str | None = None
    out: str | None = None
    chat: Chat = "auto"
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_date: str | None = None
    batch_size: int = 8
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.model.path is not None, "model.path", None, "is needed: the model that answers")
        given = f"give either --prompts (a file) or --prompt (a text; now {self.prompt!r})"
        require((self.prompts is None) != (self.prompt is None), "prompts", self.prompts, given)
        require(self.batch_size > 0, "batch_size", self.batch_size, "must be positive")
        if self.chat_date is not None:
            try:
                datetime.date.fromisoformat(self.chat_date)
            except ValueError:
                require(False, "chat_date", self.chat_date, "must be a day such as 2026-01-31")

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(**{setting.name: getattr(self, setting.name) for setting in fields(SamplingConfig)})
