"""Settings of stage one."""

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from oddsmill.schemas.errors import require

FormatName = Literal["triple", "transcript", "messages", "sharegpt", "ranked", "votes"]
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
    "tools",
    "chat_template_kwargs",
)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the rows come from and how they read.

    Attributes:
      path: Files of rows: JSON lines, a JSON array or CSV/TSV with a header (each also as .gz or .zst), Parquet,
        Arrow; on this machine, gs:// or s3://. Or a folder of save_to_disk, or hf://org/name[/config], a dataset
        of the Hugging Face hub. Globs are allowed; a list joins several.
      split: Of a hub dataset or a folder of save_to_disk: splits and slices, e.g. train[:5%]+test[100:200].
        Unset: train, or the only one.
      name: Configuration of a hub dataset.
      revision: Branch, tag or commit of a hub dataset.
      format: triple (strings prompt, chosen, rejected), transcript (HH style: chosen and rejected are whole
        dialogues), messages (role and content; a prompt and its answers, or whole conversations), sharegpt (from
        and value), ranked (completions with scores, ranks or preferences of their pairs), votes (two completions
        and a vote or several), or module:function, a function of yours: row -> pair, or None to drop it.
        Unset: detected from the first rows.
      fields: The source's names of the fields, e.g. {"prompt": "question"}. input.messages is a field in a field;
        a list of names joins several: texts with a blank line between, completions, scores, votes to a list.
      ranked_pairs: Of a ranked row, the best against the worst, or all that differ.
      margin: Scores that differ by no more are a tie, and a tie is dropped.
      vote_values: What the votes mean: first, second or tie, e.g. {"0": "first", "1": "second"}. Unset: 1, a or
        first, 2, b or second, 0 or tie.
    """

    path: str | list[str]
    split: str | None = None
    name: str | None = None
    revision: str | None = None
    format: str | None = None
    fields: dict[str, str | list[str]] = field(default_factory=dict)
    ranked_pairs: Literal["best_worst", "all"] = "best_worst"
    margin: float = 0.0
    vote_values: dict[str, Literal["first", "second", "tie"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.path) and all(self.paths), "source.path", self.path, "give a file, a glob or a list")
        for setting in ("split", "name", "revision"):
            require(getattr(self, setting) != "", f"source.{setting}", "", "give one, or leave it out")
        formats = get_args(FormatName)
        require(
            self.format is None or self.format in formats or ":" in self.format.strip(":"),
            "source.format",
            self.format,
            f"must be one of {', '.join(formats)}, or module:function",
        )
        for name, names in self.fields.items():
            require(
                name in FIELDS,
                "source.fields",
                self.fields,
                f"{name!r} is not one of ours: {', '.join(FIELDS)} (the source's name stands on the right)",
            )
            require(bool(names), "source.fields", self.fields, f"{name!r} needs a name of the source's")
        require(0 <= self.margin < float("inf"), "source.margin", self.margin, "must not be negative")
        choices = get_args(type(self).__annotations__["ranked_pairs"])
        require(
            self.ranked_pairs in choices,
            "source.ranked_pairs",
            self.ranked_pairs,
            f"must be one of {', '.join(choices)}",
        )
        require(
            set(self.vote_values.values()) <= {"first", "second", "tie"},
            "source.vote_values",
            self.vote_values,
            "a vote means first, second or tie",
        )

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Settings of `oddsmill pipeline run`.

    Attributes:
      source: Where the rows come from and how they read.
      tokenizer: A local folder with a tokenizer.json, or a model id of the Hugging Face hub.
      tokenizer_revision: Branch, tag or commit of that model on the hub.
      chat_template: The template that renders messages: a file, the name of one of the tokenizer's, or itself.
        Unset: the tokenizer's own.
      chat_template_kwargs: What the template sees beside the messages, e.g. {"enable_thinking": false}.
      chat_date: The day, YYYY-MM-DD, that a template is told which writes the date.
      output: Folder that the dataset is written to.
      max_length: Longest prompt + answer, in tokens, BOS and EOS counted. Holds for both sides.
      max_prompt_length: A prompt is cut to make room for the answers, but not below this.
      max_completion_length: Longest answer, in tokens, EOS counted. Unset: no limit of its own.
      truncation_side: The end of a prompt that is kept when it is cut.
      overlong: What happens to a pair that does not fit: it is cut, or dropped.
      compat: trl makes of every row the tokens that TRL 1.15 and later make of it. max_prompt_length is not used
        then, and the other length rules but max_length, which TRL does not have, are refused.
      packing: Put several pairs into a row where they fit. Off: one pair a row.
      row_length: Token slots of a row; a pair that needs more is dropped. Unset: twice max_length, which
        holds every pair.
      eval_share: Share of the prompts whose pairs form the eval split.
      shuffle: Order rows by a keyed hash. Off: source order, in one shard, with no eval split.
      seed: Of the split and of the order.
      dedup: exact keeps one of several pairs with equal texts. none keeps them all.
      num_shards: Files of the train split. Unset: one for about 64 MB of input.
      max_drop_share: The run is refused when a greater share of the rows is dropped.
      overwrite: Replace a finished dataset that was made with other settings.
      beam_options: Options of Apache Beam; what stands after a bare -- on the command line wins.
    """

    source: SourceConfig
    tokenizer: str
    tokenizer_revision: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_date: str | None = None
    output: str
    max_length: int = 1024
    max_prompt_length: int = 512
    max_completion_length: int | None = None
    truncation_side: Literal["keep_end", "keep_start"] = "keep_end"
    overlong: Literal["truncate", "drop"] = "truncate"
    compat: Literal["trl"] | None = None
    packing: bool = True
    row_length: int | None = None
    eval_share: float = 0.05
    shuffle: bool = True
    seed: int = 0
    dedup: Literal["exact", "none"] = "none"
    num_shards: int | None = None
    max_drop_share: float = 0.5
    overwrite: bool = False
    beam_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.tokenizer), "tokenizer", self.tokenizer, "give a folder or a hub id")
        require(bool(self.output), "output", self.output, "give a folder")
        require(self.max_length >= 2, "max_length", self.max_length, "must hold a prompt and an answer: at least 2")
        for name in ("max_prompt_length", "max_completion_length", "num_shards"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")
        require(
            self.row_length is None or self.row_length >= self.max_length,
            "row_length",
            self.row_length,
            f"must be at least max_length ({self.max_length}); {2 * self.max_length} holds every pair",
        )
        require(0 <= self.eval_share <= 1, "eval_share", self.eval_share, "must be between 0 and 1")
        require(0 <= self.max_drop_share <= 1, "max_drop_share", self.max_drop_share, "must be between 0 and 1")
        require(0 <= self.seed < 1 << 64, "seed", self.seed, "must be between 0 and 2**64 - 1")
        require(self.chat_template != "", "chat_template", "''", "give a file or a template, or leave it out")
        require(self.compat in (None, "trl"), "compat", self.compat, "must be trl, or left out")
        if self.chat_date is not None:
            try:
                datetime.date.fromisoformat(self.chat_date)
            except ValueError:
                require(False, "chat_date", self.chat_date, "must be a day such as 2026-01-31")
        if self.compat == "trl":
            for name in ("max_prompt_length", "max_completion_length", "truncation_side", "overlong"):
                value = getattr(self, name)
                problem = "has no effect with --compat=trl: TRL cuts answers at max_length and never a prompt"
                require(value == type(self).__dataclass_fields__[name].default, name, value, f"{problem}; leave it out")
        for name in ("truncation_side", "overlong", "dedup"):
            choices = get_args(PreprocessConfig.__annotations__[name])
            require(getattr(self, name) in choices, name, getattr(self, name), f"must be one of {', '.join(choices)}")
        if not self.shuffle:
            require(self.eval_share == 0, "shuffle", False, "source order has one split; add --eval_share=0")
            require(
                self.num_shards in (None, 1), "shuffle", False, "source order has one shard; leave out --num_shards"
            )

    @property
    def slots(self) -> int:
        """Token slots of a row: `row_length`, resolved."""
        return self.row_length or 2 * self.max_length
