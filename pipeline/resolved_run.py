"""A run with every open setting resolved before a worker starts: files, format, tokenizer, shards.

It needs no Beam, so it is quick.
"""

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddsmill.pipeline.config import DatasetSettings, SourceConfig
from oddsmill.pipeline.formats.pairs import ChatPair, Pair, PreferencePair
from oddsmill.pipeline.input.changes import FileState
from oddsmill.pipeline.input.parts import Input
from oddsmill.pipeline.resolved_sources import describe_formats, find_all_inputs, resolve_sources
from oddsmill.pipeline.tokens.engine import choose_for_run
from oddsmill.pipeline.tokens.rendering import check_rendering
from oddsmill.pipeline.tokens.text_rules import TextRules, choose_rules
from oddsmill.pipeline.tokens.tokenizer import describe_bos, find_tokenizer, load_for_run, summarize_tokenizer
from oddsmill.schemas.engines.choice import TOKENIZERS, EngineChoice
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.files import check_name
from oddsmill.schemas.locks.lock import Lock
from oddsmill.schemas.manifest import Manifest, Split, TokenizerSummary
from oddsmill.schemas.stores import check_access, lies_in
from oddsmill.schemas.version import tool_version

_SHARD_TEXT_BYTES, _SMALL_SHARD_TEXT_BYTES = 64 << 20, 16 << 20
_SHARDS_AT_A_TIME = 16
_PAIRS_RENDERED = 256
# The manifest leaves out settings that the dataset does not depend on, and those that it holds by digest.
_NOT_IN_MANIFEST = (
    *("tokenizer", "tokenizer_revision", "chat_template", "output", "overwrite"),
    *("tokenizer_engine", "dataset_num_proc", "beam_options"),
)


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """A run with its inputs found and its open settings resolved. It holds plain values only: workers get it whole.

    Attributes:
      bos: what begins the rows, in lines for people.
      settings: the settings as the manifest gives them.
      rules: the functions that take a row to ids, as `compat` asks for them.
      has_texts: some of the rows looked at are texts, which no chat template renders.
      has_dialogues: some of them are dialogues.
      sources: the source of each input, with its format; `sources[row.origin.file]` is that of a row.
      rows_looked_at: the number of rows with pairs that were looked at to tell the formats.
      not_read: in how many of these a column holds something that is not read.
      before: in how many of these a column holds what stands before the prompt, such as the system's text.
      absent: the columns that `source.fields` names and no row looked at has.
      num_shards: the number of shards of each split that the dataset has.
      libraries: the versions of the libraries that make the bytes.
      sample: some of the pairs looked at, on which engines are compared; workers get none.
      engine: what encodes the texts, once it is chosen.
      lock: that of the output folder, once the run holds it: its workers publish nothing without it.
    """

    config: DatasetSettings
    rules: TextRules
    inputs: list[Input]
    sources: list[SourceConfig]
    rows_looked_at: int
    not_read: dict[str, int]
    before: dict[str, int]
    absent: list[str]
    has_texts: bool
    has_dialogues: bool
    tokenizer_folder: str
    tokenizer: TokenizerSummary
    bos: list[str]
    settings: dict[str, Any]
    num_shards: dict[Split, int]
    tool_version: str
    libraries: dict[str, str]
    sample: list[Pair]
    engine: EngineChoice = TOKENIZERS
    lock: Lock | None = None

    @property
    def paths(self) -> list[str]:
        """The input files, in order."""
        return [file.path for file in self.inputs]

    @property
    def states(self) -> dict[str, FileState]:
        """The state of each file that is read, as it was at the start."""
        return {path: state for file in self.inputs for path, state in zip(file.files, file.states, strict=True)}

    def input_records(self) -> list[dict[str, Any]]:
        """Returns what run.json keeps of each input; how it is read only where that differs from file to file."""
        differ = isinstance(self.settings["source"], list)
        return [
            {name: value for name, value in dataclasses.asdict(file).items() if name != "states"}
            | ({"read_as": source.meaning} if differ else {})
            for file, source in zip(self.inputs, self.sources, strict=True)
        ]

    @property
    def formats(self) -> list[str]:
        """The formats of the rows, a line each; with their files where there are several."""
        return describe_formats(self.sources, self.inputs, self.config.sources)

    @property
    def notes(self) -> list[str]:
        """What to know before a run begins, a line each."""
        config = self.config
        notes = [f"source.fields names {column!r}, which no row looked at has" for column in self.absent]
        if self.before:
            columns = " and ".join(f"{column} ({count:,} rows)" for column, count in sorted(self.before.items()))
            form = " or ".join(["turns"] * self.has_dialogues + ["paragraphs"] * self.has_texts)
            notes.append(f"before the prompt stand, as {form}: {columns}, of {self.rows_looked_at:,} rows looked at")
        if self.has_texts and self.tokenizer.chat_template_sha256 and config.compat is None:
            which = "some rows" if self.has_dialogues else "the rows"
            notes.append(
                f"{which} are texts, and the tokenizer has a chat template that is not used: right for a base model, "
                "and for texts that are rendered already; --chat=true makes each prompt the user's turn and each "
                "answer the assistant's"
            )
        if self.rules.cuts_prompts and config.prompt_floor >= config.max_length:
            notes.append(
                f"prompts are not cut below max_prompt_length={config.prompt_floor}, so one that long leaves no room "
                f"for an answer within max_length={config.max_length} and is dropped"
            )
        return notes

    @property
    def output(self) -> str:
        """The folder of the dataset. `plan` and `explain` write none."""
        assert self.config.output is not None  # by DatasetSettings
        return self.config.output


def resolve_run(config: DatasetSettings, *, found: Callable[[list[Input], Path], object] | None = None) -> ResolvedRun:
    """Looks at the input and the tokenizer, and resolves every setting that was left open.

    Args:
      found: is called with the inputs and the tokenizer's folder when they are found, a hundredth of the time before.

    Raises:
      Refused: a file is missing or unreadable, the format cannot be told, the tokenizer cannot be used.
    """
    check_access([*(path for source in config.sources for path in source.paths), config.tokenizer])
    check_name(config.tokenizer, "tokenizer")
    inputs = find_all_inputs(config.sources)
    folder = find_tokenizer(config.tokenizer, config.tokenizer_revision)
    if found is not None:
        found(inputs, folder)
    tokenizer = load_for_run(folder, config)
    rules = choose_rules(config)
    resolved = resolve_sources(config.sources, inputs, rules)
    chats = [pair for pair in resolved.pairs if isinstance(pair, ChatPair)]
    sample = resolved.pairs[:: len(resolved.pairs) // _PAIRS_RENDERED + 1]  # of many files, some pairs of each
    check_rendering(sample, tokenizer.chat_template, config, render=rules.render)
    if config.output is not None:
        _check_apart(config.output, [file for each in inputs for file in each.files] + [str(folder)])
    num_shards = _num_shards(config, inputs)
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_IN_MANIFEST}
    settings["source"] = _plain(resolved.of_inputs)
    settings["row_length"] = config.slots
    settings["answer_loss"] = "all" if config.scores_all_turns else "assistant"
    if rules.cuts_prompts:
        settings["max_prompt_length"] = config.prompt_floor
    settings["num_shards"] = num_shards
    return ResolvedRun(
        config=config,
        rules=rules,
        inputs=inputs,
        sources=resolved.of_inputs,
        rows_looked_at=resolved.rows,
        not_read=dict(resolved.not_read),
        before=dict(resolved.before) if config.compat is None else {},
        absent=resolved.absent,
        has_texts=any(isinstance(pair, PreferencePair) for pair in resolved.pairs),
        has_dialogues=bool(chats),
        tokenizer_folder=str(folder),
        tokenizer=summarize_tokenizer(tokenizer),
        bos=list(describe_bos(tokenizer, texts=len(chats) < len(resolved.pairs), dialogues=bool(chats))),
        settings=settings,
        num_shards=num_shards,
        sample=sample,
        tool_version=tool_version(),
        libraries={name: importlib.metadata.version(name) for name in ("array-record", "pyarrow", "tokenizers")},
    )


def with_engine(resolved: ResolvedRun) -> ResolvedRun:
    """Returns the run with its tokenizer engine, as workers get it. That takes a second or two of a large vocabulary.

    Raises:
      Refused: `tokenizer_engine` names one that cannot be used.
    """
    tokenizer = load_for_run(resolved.tokenizer_folder, resolved.config)
    size = sum(each.text_bytes for each in resolved.inputs)
    engine = choose_for_run(resolved.sample, tokenizer, resolved.rules, resolved.config, text_bytes=size)
    return dataclasses.replace(resolved, engine=engine, sample=[])


def differences(resolved: ResolvedRun, manifest: Manifest, inputs: list[dict[str, Any]]) -> list[str]:
    """Lists how a run would differ from the one that made a dataset, one line each, old -> new.

    Args:
      inputs: the input files of that run, as its run.json has them.
    """
    old, new = flat(manifest.settings), flat(resolved.settings)
    lines = [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    different = manifest.tokenizer.differences(resolved.tokenizer)
    if different:
        lines.append("tokenizer: another " + ", ".join(different))
    order = sorted if resolved.config.shuffle else list  # source order is the files' order
    if order(file["digest"] for file in inputs) != order(file.digest for file in resolved.inputs):
        lines.append(f"input: other files, or other contents ({len(inputs)} -> {len(resolved.inputs)} files)")
    elif order(map(_read_as, inputs)) != order(map(_read_as, resolved.input_records())):
        lines.append("input: a file is read by another of the sources")
    versions = {"oddsmill": manifest.tool_version} | manifest.libraries
    for name, version in ({"oddsmill": resolved.tool_version} | resolved.libraries).items():
        if versions.get(name) != version:
            lines.append(f"version of {name}: {versions.get(name)} -> {version}")
    return lines


def _read_as(record: dict[str, Any]) -> tuple[str, str]:
    """Returns the digest of an input and how its rows are read; earlier versions, with one source, did not say."""
    return record["digest"], json.dumps(record.get("read_as"), sort_keys=True)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted names, as they are given on the command line."""
    names: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            names |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            names |= flat({f"{name}[{number}]": each for number, each in enumerate(value)}, prefix)
        else:
            names[prefix + name] = value
    return names


def _plain(sources: list[SourceConfig]) -> Any:
    """Returns the settings that say what the rows mean; a list where the sources differ, whatever their order."""
    kinds = {json.dumps(source.meaning, sort_keys=True): source.meaning for source in sources}
    return next(iter(kinds.values())) if len(kinds) == 1 else [kinds[text] for text in sorted(kinds)]


def _check_apart(output: str, paths: list[str]) -> None:
    """Refuses to read from the folder that will be cleared and written."""
    for path in paths:
        if lies_in(path, output):
            raise Refused(f"--output={output}: {path} is read, and lies in it; give another folder")


def default_num_shards(text_bytes: int) -> int:
    """Returns the number of train shards for so many bytes of text.

    A shard is written by one core. Up to 16 are small, so that many cores write them; more are of a size that stores
    like. The number depends on the input alone: any machine makes the same dataset.
    """
    small, large = (math.ceil(text_bytes / size) for size in (_SMALL_SHARD_TEXT_BYTES, _SHARD_TEXT_BYTES))
    return max(1, min(small, _SHARDS_AT_A_TIME), large)


def _num_shards(config: DatasetSettings, inputs: list[Input]) -> dict[Split, int]:
    train = config.num_shards or 1
    if config.num_shards is None and config.shuffle:
        train = default_num_shards(sum(each.text_bytes for each in inputs))
    num_shards: dict[Split, int] = {}
    if config.eval_share < 1:
        num_shards["train"] = train
    if config.eval_share > 0:
        num_shards["eval"] = math.ceil(train * config.eval_share)
    return num_shards
