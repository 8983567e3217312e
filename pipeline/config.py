"""Settings of stage one."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from schemas.errors import require

FormatName = Literal["triple", "transcript"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the rows come from and how they read.

    Attributes:
      path: Files of rows, JSON lines (also .gz) or Parquet. Globs are allowed; a list joins several.
      format: triple (prompt, chosen, rejected) or transcript (HH style: chosen and rejected are whole
        dialogues). Unset: detected from the first rows.
      fields: The source's names of the fields, e.g. {"prompt": "question"}.
    """

    path: str | list[str]
    format: FormatName | None = None
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.path) and all(self.paths), "source.path", self.path, "give a file, a glob or a list")
        for name in self.fields:
            require(
                name in ("prompt", "chosen", "rejected"),
                "source.fields",
                self.fields,
                f"{name!r} is not one of ours: prompt, chosen, rejected (the source's name stands on the right)",
            )

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Settings of `python -m pipeline run`.

    Attributes:
      source: Where the rows come from and how they read.
      tokenizer: A local folder with a tokenizer.json, or a model id of the Hugging Face hub.
      tokenizer_revision: Branch, tag or commit of that model on the hub.
      output: Folder that the dataset is written to.
      max_length: Longest prompt + answer, in tokens, BOS and EOS counted. Holds for both sides.
      max_prompt_length: A prompt is cut to make room for the answers, but not below this.
      max_completion_length: Longest answer, in tokens, EOS counted. Unset: no limit of its own.
      truncation_side: The end of a prompt that is kept when it is cut.
      overlong: What happens to a pair that does not fit: it is cut, or dropped.
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
    output: str
    max_length: int = 1024
    max_prompt_length: int = 512
    max_completion_length: int | None = None
    truncation_side: Literal["keep_end", "keep_start"] = "keep_end"
    overlong: Literal["truncate", "drop"] = "truncate"
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
        for name in ("truncation_side", "overlong", "dedup"):
            choices = get_args(type(self).__annotations__[name])
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
