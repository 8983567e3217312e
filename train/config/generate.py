"""The settings of `oddsmill train generate`."""

import datetime
from dataclasses import fields
from typing import Any, Literal

from oddsmill.schemas.chat.messages import MessageForms
from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.compute import Dtype
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.sampling import SamplingConfig

Chat = bool | Literal["auto"]


@settings()
class GenerateConfig(SamplingConfig):
    """Answers prompts with a model or a checkpoint of a run.

    Of the model's generation_config.json the ids that end an answer are obeyed, no more.
    """

    model: ModelConfig | None = setting("Which model answers; or give run_dir.", default=None)
    run_dir: str | None = setting("The folder of a run; its data are not needed.", default=None)
    checkpoint: int | None = setting(
        "The step of the run's checkpoint; null: the newest, or the best of a run with load_best_model_at_end.",
        default=None,
        needs=("run_dir",),
    )
    prompts: str | None = setting(
        'A JSONL file, {"prompt": "text"}, {"prompt": [messages]} or {"messages": [messages]} a row.',
        default=None,
    )
    prompt: str | None = setting("One prompt, a text.", default=None)
    out: str | None = setting("The JSONL file to write; null: standard output.", default=None)
    chat: Chat = setting(
        "`auto` renders messages by the chat template and takes texts as they stand, true takes a text as the message "
        "of a user and a transcript as its turns, as `chat` of the pipeline, false refuses messages.",
        default="auto",
    )
    chat_template: str | None = setting(
        "The template that renders messages: a file, the name of one of the tokenizer's, or itself.",
        default=None,
    )
    chat_template_kwargs: dict[str, Any] = setting(
        'What the template sees beside the messages, e.g. {"enable_thinking": false}.',
        default_factory=dict,
    )
    chat_date: str | None = setting("The day that the template's clock tells, YYYY-MM-DD; null: today.", default=None)
    roles: dict[str, str] = setting(
        'What roles mean that are not known, as source.roles of the pipeline, e.g. {"tutor": "assistant"}.',
        default_factory=dict,
    )
    message_keys: dict[str, str] = setting(
        'The names of the keys of a message, as source.message_keys, e.g. {"role": "who", "content": "said"}.',
        default_factory=dict,
    )
    batch_size: int = setting("How many answers are written at once.", default=8, above=0)
    param_dtype: Dtype | None = setting(
        "The dtype that weights are kept in; null: as in the run, else float32.",
        default=None,
        only_with={"run_dir": (None,)},
    )
    compute_dtype: Dtype | None = setting(
        "The dtype that matrix products take; null: as in the run, else float32. Reductions are float32.",
        default=None,
        only_with={"run_dir": (None,)},
    )
    mesh: MeshConfig | None = setting(
        "How devices are arranged; null: as in the run, else all along data.",
        default=None,
    )

    def check(self) -> None:
        path = self.model.path if self.model else None
        source = f"give either --model.path (a folder or a hub id) or --run_dir (a run; now {self.run_dir})"
        require((path is None) != (self.run_dir is None), "model.path", path, source)
        config = self.model.config if self.model else None
        require(config is None, "model.config", config, "has no weights; leave it out")
        given = f"give either --prompts (a file) or --prompt (a text; now {self.prompt!r})"
        require((self.prompts is None) != (self.prompt is None), "prompts", self.prompts, given)
        MessageForms(self.roles, self.message_keys, option="").check()
        if self.chat_date is not None:
            try:
                datetime.date.fromisoformat(self.chat_date)
            except ValueError:
                require(False, "chat_date", self.chat_date, "must be a day such as 2026-01-31")

    @property
    def sampling(self) -> SamplingConfig:
        """How tokens are chosen."""
        return SamplingConfig(**{setting.name: getattr(self, setting.name) for setting in fields(SamplingConfig)})
