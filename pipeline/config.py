"""Settings of stage one."""

import dataclasses
import datetime
from typing import Any, Literal

from oddsmill.schemas.chat.messages import KNOWN, MessageForms
from oddsmill.schemas.engines.choice import EngineSetting
from oddsmill.schemas.errors import require
from oddsmill.schemas.record import MAX_ROW_LENGTH
from oddsmill.schemas.settings import setting, settings

FIELDS = (
    "prompt",
    "chosen",
    "rejected",
    "completions",
    "scores",
    "ranks",
    "preferences",
    "votes",
    "score_chosen",
    "score_rejected",
    "system",
    "history",
    "images",
    "tools",
    "chat_template_kwargs",
)
# Settings whose keys are names of the rows' or of the template's, and so tell no secret.
NAMES_OF_ROWS = ("fields", "roles", "message_keys", "vote_values", "chat_template_kwargs")
# Fields that are found beside the pair, and may be left out by naming no column.
_MAY_BE_LEFT_OUT = ("system", "history", "images")


@settings(group="source.")
class SourceConfig:
    """Says where the rows come from and how they are read."""

    path: str | list[str] = setting(
        "Files of rows: JSON lines, a JSON array or CSV/TSV with a header (each also as .gz or .zst), Parquet, Arrow; "
        "on this machine, gs:// or s3://. Or a folder of save_to_disk, or hf://org/name[/config], a dataset of the "
        "Hugging Face hub. Globs are allowed; a list joins several."
    )
    split: str | None = setting(
        "The splits and slices that are read of a hub dataset or a folder of save_to_disk, e.g. "
        "train[:5%]+test[100:200]. null: train, or the only one.",
        default=None,
    )
    name: str | None = setting("The configuration of a hub dataset.", default=None)
    revision: str | None = setting("Branch, tag or commit of a hub dataset.", default=None)
    format: str | None = setting(
        "How rows are laid out: triple (strings prompt, chosen, rejected), transcript (HH style: chosen and rejected "
        "are whole dialogues), messages (role and content; a prompt and its answers, or whole conversations), sharegpt "
        "(from and value), ranked (completions with scores, ranks or preferences of their pairs), votes (two "
        "completions and a vote or several), or module:function, a function of yours: row -> pair, or None to drop it. "
        "null: detected from the first rows.",
        default=None,
    )
    fields: dict[str, str | list[str]] = setting(
        'The source\'s names of the fields, e.g. {"prompt": "question"}. input.messages is a field in a field, and '
        "answers.text the texts of a list of answers; a list of names joins several: texts with a blank line between, "
        "completions, scores, votes to a list. {} means: found in the first rows, as those of known datasets. system, "
        "history and images are found beside any pair; [] leaves one out.",
        default_factory=dict,
    )
    roles: dict[str, str] = setting(
        'What roles mean that are not known, e.g. {"tutor": "assistant"}: system, developer, user, assistant, tool, or '
        "function_call, a turn of the assistant whose text is JSON of its calls.",
        default_factory=dict,
    )
    message_keys: dict[str, str] = setting(
        'The source\'s names of the keys of a message, e.g. {"role": "who", "content": "said"}. {} means: role or '
        "from, content or value, and what else is known.",
        default_factory=dict,
    )
    ranked_pairs: Literal["best_worst", "all"] = setting(
        "Which pairs a ranked row gives: the best answer against the worst, or all that differ.",
        default="best_worst",
    )
    margin: float = setting(
        "Scores that differ by no more are a tie, and a tie is dropped.",
        default=0.0,
        at_least=0,
        below=float("inf"),
    )
    vote_values: dict[str, Literal["first", "second", "tie"]] = setting(
        'What the votes mean: first, second or tie, e.g. {"0": "first", "1": "second"}. {} means: 1, a or first; 2, b '
        "or second; 0 or tie.",
        default_factory=dict,
    )

    def check(self) -> None:
        require(bool(self.path) and all(self.paths), "source.path", self.path, "give a file, a glob or a list")
        for name in ("split", "name", "revision"):
            require(getattr(self, name) != "", f"source.{name}", "", "give one, or leave it out")
        for name, names in self.fields.items():
            require(
                name in FIELDS,
                "source.fields",
                self.fields,
                f"{name!r} is not one of ours: {', '.join(FIELDS)} (the source's name stands on the right)",
            )
            is_given = bool(names) or (names == [] and name in _MAY_BE_LEFT_OUT)
            require(is_given, "source.fields", self.fields, f"{name!r} needs a name of the source's")
        self.forms.check()
        require(
            set(self.vote_values.values()) <= {"first", "second", "tie"},
            "source.vote_values",
            self.vote_values,
            "a vote means first, second or tie",
        )

    @property
    def forms(self) -> MessageForms:
        """The source's names for roles and for the keys of messages."""
        return MessageForms(self.roles, self.message_keys) if self.roles or self.message_keys else KNOWN

    @property
    def paths(self) -> list[str]:
        """The files, globs and addresses, also where there is one."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def meaning(self) -> dict[str, Any]:
        """The settings that say what a row means, not where it lies."""
        place = ("path", "split", "name", "revision")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in place}


@settings()
class InputSettings:
    """Says what is read: rows, and the tokenizer that makes token ids of them."""

    source: SourceConfig | list[SourceConfig] = setting(
        "Where the rows come from and how they are read; or a list of such groups, each with a path, format, fields "
        'and so on of its own: \'[{"path": "a.jsonl"}, {"path": "b.csv", "format": "votes"}]\'.'
    )
    tokenizer: str = setting("A local folder with a tokenizer.json, or a model id of the Hugging Face hub.")
    tokenizer_revision: str | None = setting("Branch, tag or commit of that model on the hub.", default=None)
    chat_template: str | None = setting(
        "The template that renders messages: a file, the name of one of the tokenizer's, or itself. null: the "
        "tokenizer's own.",
        default=None,
    )
    chat_template_kwargs: dict[str, Any] = setting(
        'What the template sees beside the messages, e.g. {"enable_thinking": false}.',
        default_factory=dict,
    )
    chat: bool = setting(
        "Rows of texts are read as dialogues for the chat template: the prompt is the user's turn (of a transcript, "
        "the turns), each answer the assistant's, and a system column the system's. false: texts stay as they are.",
        default=False,
        only_with={"compat": (None,)},
    )
    chat_date: str | None = setting(
        "The day, YYYY-MM-DD, that a template is told which writes the date.",
        default=None,
    )
    answer_loss: Literal["assistant", "all"] | None = setting(
        "The turns of an answer that have loss, where it has several: those of the assistant, or all, so that the "
        "model learns to write the turns of tools and users too. null: assistant; with compat=trl all, as TRL does.",
        default=None,
    )
    require_rendered: bool = setting(
        "A pair is dropped if its messages, tools or documents hold a text that the template does not write. false: "
        "it stays, and is counted.",
        default=False,
    )
    add_bos: bool | Literal["auto"] = setting(
        "Whether BOS begins a prompt. auto: as at inference, a text where the tokenizer's post-processor or its "
        "add_bos_token adds it, a dialogue where the chat template writes it; true: both; false: a text without, and a "
        "dialogue as the template writes it.",
        default="auto",
        only_with={"compat": (None,)},
    )

    def check(self) -> None:
        require(bool(self.sources), "source", self.source, "give at least one")
        require(bool(self.tokenizer), "tokenizer", self.tokenizer, "give a folder or a hub id")
        require(self.chat_template != "", "chat_template", "''", "give a file or a template, or leave it out")
        if self.chat_date is not None:
            try:
                datetime.date.fromisoformat(self.chat_date)
            except ValueError:
                require(False, "chat_date", self.chat_date, "must be a day such as 2026-01-31")

    @property
    def sources(self) -> list[SourceConfig]:
        """The sources, also where there is one."""
        return self.source if isinstance(self.source, list) else [self.source]


@settings()
class OutputSettings:
    """Says where the dataset goes."""

    output: str | None = setting("The folder that the dataset is written to; only `run` needs one.", default=None)

    def check(self) -> None:
        require(self.output != "", "output", self.output, "give a folder")


_NOT_OF_TRL = {"compat": (None,)}


@settings()
class LengthSettings:
    """How long pairs and rows may be. TRL, which cuts answers at max_length and never a prompt, has the first alone."""

    max_length: int = setting(
        "The longest prompt + answer, in tokens, BOS and EOS counted. It holds for both sides.",
        default=1024,
        at_most=MAX_ROW_LENGTH // 2,
    )
    max_prompt_length: int | None = setting(
        "A prompt is cut to make room for the answers, but not below this. null: half of max_length.",
        default=None,
        at_least=1,
        only_with=_NOT_OF_TRL,
    )
    max_completion_length: int | None = setting(
        "The longest answer, in tokens, EOS counted. null: answers have no limit of their own.",
        default=None,
        at_least=1,
        only_with=_NOT_OF_TRL,
    )
    truncation_side: Literal["keep_end", "keep_start"] = setting(
        "The end of a prompt that is kept when it is cut.",
        default="keep_end",
        only_with=_NOT_OF_TRL,
    )
    overlong: Literal["truncate", "drop"] = setting(
        "What happens to a pair that does not fit: it is cut, or dropped.",
        default="truncate",
        only_with=_NOT_OF_TRL,
    )
    compat: Literal["trl"] | None = setting(
        "trl makes of every row the tokens that TRL 1.15 and later make of it: answers are cut at max_length and "
        "prompts never. The other length rules, which TRL does not have, are refused.",
        default=None,
    )
    packing: bool = setting("Several pairs are put into a row where they fit; false: one pair a row.", default=True)
    row_length: int | None = setting(
        "The token slots of a row; a pair that needs more is dropped. null: twice max_length, which holds every pair.",
        default=None,
        at_most=MAX_ROW_LENGTH,
    )

    def check(self) -> None:
        require(self.max_length >= 2, "max_length", self.max_length, "must hold a prompt and an answer: at least 2")
        require(
            self.row_length is None or self.row_length >= self.max_length,
            "row_length",
            self.row_length,
            f"must be at least max_length ({self.max_length}); {2 * self.max_length} holds every pair",
        )

    @property
    def prompt_floor(self) -> int:
        """The length that no prompt is cut below: `max_prompt_length`, resolved."""
        return self.max_length // 2 if self.max_prompt_length is None else self.max_prompt_length

    @property
    def slots(self) -> int:
        """Token slots of a row: `row_length`, resolved."""
        return self.row_length or 2 * self.max_length


@settings()
class SplitSettings:
    """Which pairs the dataset holds, in which splits, order and files."""

    eval_share: float = setting(
        "The share of the prompts whose pairs form the eval split.",
        default=0.05,
        at_least=0,
        at_most=1,
    )
    shuffle: bool = setting(
        "Rows are ordered by a keyed hash; false: source order, in one shard, with no eval split.",
        default=True,
    )
    seed: int = setting("The seed of the split and of the order.", default=0, at_least=0, at_most=2**64 - 1)
    dedup: Literal["exact", "none"] = setting(
        "exact keeps one of several pairs with equal texts; none keeps them all.",
        default="none",
    )
    num_shards: int | None = setting(
        "The number of files of the train split. null: one for 16 MB of input, up to 16 of them; then one for 64 MB.",
        default=None,
        at_least=1,
    )

    def check(self) -> None:
        if not self.shuffle:
            require(self.eval_share == 0, "shuffle", False, "source order has one split; add --eval_share=0")
            one_shard = self.num_shards in (None, 1)
            require(one_shard, "shuffle", False, "source order has one shard; leave out --num_shards")


@settings()
class ExecutionSettings:
    """How the dataset is made, and when it is not."""

    max_drop_share: float = setting(
        "The run is refused when a greater share of the rows is dropped: of all, or of one of several files because of "
        "how it is laid out.",
        default=0.5,
        at_least=0,
        at_most=1,
    )
    dataset_num_proc: int | None = setting(
        "The processes that tokenize on this machine; 1: that of the command alone. Other runners of Beam have "
        "workers of their own. null: one for each core, and fewer for a small input.",
        default=None,
        at_least=1,
    )
    overwrite: bool = setting("A finished dataset that was made with other settings is replaced.", default=False)
    tokenizer_engine: EngineSetting = setting(
        "The library that encodes texts, to the same ids. auto: fastokens, several times faster, where it takes the "
        "tokenizer and agrees with tokenizers on difficult texts and on some of the input's; else tokenizers.",
        default="auto",
    )
    beam_options: dict[str, Any] = setting(
        "Options of Apache Beam; what stands after a bare -- on the command line wins.",
        default_factory=dict,
    )


# Python lists the fields of the last base first: the order of the settings is upwards.
@settings()
class DatasetSettings(ExecutionSettings, SplitSettings, LengthSettings, OutputSettings, InputSettings):
    """All that decides what a dataset holds."""

    def check(self) -> None:
        problem = "TRL gives loss to all turns of an answer; leave this out, or --compat"
        require(self.compat is None or self.answer_loss != "assistant", "answer_loss", self.answer_loss, problem)

    @property
    def scores_all_turns(self) -> bool:
        """True where all tokens of an answer of several turns have loss: `answer_loss`, resolved."""
        return self.answer_loss == "all" or self.compat == "trl"


@settings()
class PreprocessConfig(DatasetSettings):
    """Settings of `oddsmill pipeline run`."""

    output: str = setting("The folder that the dataset is written to.")
