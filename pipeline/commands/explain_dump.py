"""`explain --dump=FILE`: traces the pairs of a training step that was not finite back to their source.

A dump and a dataset are data, and may be a stranger's: neither names code that is imported, and the files that run.json
names are opened only where the person who asks says so.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from os.path import join
from typing import Annotated, Any, Literal

from oddsmill.pipeline.commands.data_console import DataConsole
from oddsmill.pipeline.commands.explain import Explainer
from oddsmill.pipeline.commands.inspect import BRANCH_STYLES, side_text
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.input.sampling import find_row
from oddsmill.pipeline.output.folder import RUN_NAME, load_manifest
from oddsmill.pipeline.output.reading import read_provenance, read_shard
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.tokens.tokenizer import load_for_run, load_tokenizer
from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest
from oddsmill.schemas.record import Pair
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder, is_remote, open_file
from oddsmill.schemas.text.printable import printable_line
from oddsmill.schemas.typed_json import Count, Form, Malformed, as_type, parse_json, read_bounded

# Settings of a run that an explanation does not read: the dataset holds its tokenizer, with the template of the run.
_NOT_READ = ("output", "overwrite", "beam_options", "tokenizer", "tokenizer_revision", "chat_template")
_PATHS_SHOWN = 3


@settings(group="source.")
class DumpSource:
    """Says which files the source rows are read from; none are opened where it says nothing."""

    path: str | list[str] | None = setting(
        "The files of rows that the dataset was made of, as run has them; of a dataset of several sources one path for "
        "each, in their order. null: the rows are shown by their tokens alone.",
        default=None,
    )
    recorded: bool = setting(
        "The files are opened that the dataset's run.json names. It is for datasets of your own: one of a stranger may "
        "name any file of this machine or any address.",
        default=False,
        only_with={"path": (None,)},
    )
    format: str | None = setting(
        "module:function, where a function of yours made the pairs: the one that a dataset names is not imported.",
        default=None,
    )

    def check(self) -> None:
        is_function = self.format is None or ":" in self.format
        require(is_function, "source.format", self.format, "give module:function; other formats are in run.json")
        needed = self.format is None or self.is_open
        require(needed, "source.format", self.format, "has no effect without --source.path or --source.recorded=true")

    @property
    def is_open(self) -> bool:
        """True where files of rows may be opened."""
        return bool(self.path) or self.recorded

    @property
    def paths(self) -> list[str]:
        """The paths that are given."""
        return [self.path] if isinstance(self.path, str) else self.path or []


@settings()
class DumpConfig:
    """Settings of `oddsmill pipeline explain --dump=FILE`."""

    dump: str = setting("The nonfinite-step-N.json of a run's folder.")
    data: str | None = setting(
        "The folder of the dataset, where it does not lie any more where the run found it.",
        default=None,
    )
    source: DumpSource = setting("Where the source rows are.", default_factory=DumpSource)


_Number = float | Literal["nan", "inf", "-inf"]  # JSON lacks the latter
_PairId = Annotated[str, Form("[0-9a-f]{1,16}", "hexadecimal digits, 16 at most")]


@dataclasses.dataclass(frozen=True)
class _StepRow:
    """A row of a step, as `train/monitor/nonfinite.py` writes it; the numbers are those of the row alone."""

    pairs: list[_PairId]
    loss: _Number | None = None
    grad_norm: _Number | None = None
    finite: bool | None = None


@dataclasses.dataclass(frozen=True)
class _Dump:
    step: Count
    loss: _Number
    grad_norm: _Number
    data: str
    rows: list[_StepRow]


def explain_dump(config: DumpConfig, console: DataConsole | None = None) -> None:
    """Prints the step, then tokens and source of each pair of the rows that are not finite (of all, if none is).

    Raises:
      Refused: no such dump, or not its dataset.
    """
    dump = _read(config.dump)
    folder = config.data or _local_folder(config.dump, dump.data)
    manifest = load_manifest(folder)
    not_finite = [row for row in dump.rows if row.finite is False]
    ids = [int(pair, 16) for row in not_finite or dump.rows for pair in row.pairs]
    console = console or DataConsole()
    console.print(printable_line(f"step {dump.step}: loss {dump.loss}, gradient norm {dump.grad_norm}"))
    if dump.rows[0].finite is not None:
        console.print(
            f"{len(not_finite)} of its {len(dump.rows)} rows are not finite alone at the weights of that step"
        )
    found = {pair.id: (pair, source) for pair, source in _stored(folder, manifest, set(ids))}
    if missing := set(ids) - found.keys():
        raise Refused(f"{folder} has no pair {min(missing):016x}: it is not the dataset of the dump; give --data")
    tokenizer = load_tokenizer(fetch_folder(join(folder, TOKENIZER_FOLDER)))
    rows = _SourceRows(folder, config.source, console)
    for identity in dict.fromkeys(ids):
        pair, source = found[identity]
        console.print(f"\npair {identity:016x}  {printable_line(source or '')}", style="bold")
        for side in BRANCH_STYLES:
            console.print(side_text(pair, side, tokenizer))
        rows.explain(source)


class _SourceRows:
    """Explains source rows of a dataset with the settings that it was made with, where these may be read."""

    def __init__(self, folder: str, given: DumpSource, console: DataConsole):
        self._console, self._explainer = console, None
        try:
            self._resolved = resolve_run(_settings_of(folder, given))
            text_tokenizer = load_for_run(self._resolved.tokenizer_folder, self._resolved.config)
            self._explainer = Explainer(self._resolved, text_tokenizer, console)
        except (Refused, OSError, ValueError, KeyError, TypeError) as error:
            self._say_not_read(error)

    def explain(self, source: str | None) -> None:
        if self._explainer is None or source is None:
            return
        try:
            self._explainer.explain(find_row(self._resolved.inputs, source, None))
        except (Refused, ValueError) as error:
            self._say_not_read(error)

    def _say_not_read(self, error: Exception) -> None:
        self._console.print(printable_line(f"the source is not read: {error}"), style="dim")


def _settings_of(folder: str, given: DumpSource) -> DatasetSettings:
    """Returns the settings of the run that made a dataset, with the files that are given, and its own tokenizer.

    Raises:
      Refused: run.json is not there or damaged; no file may be opened; or a function made the pairs and none is given.
    """
    path = join(folder, RUN_NAME)
    with open_file(path) as file:
        recorded = parse_json(file.read())["settings"]
    sources = recorded["source"]
    sources = sources if isinstance(sources, list) else [sources]
    if not all(isinstance(source, Mapping) for source in sources):
        raise Refused(f"{path} is damaged: a source is no group of settings")
    if not given.is_open:
        named = [str(name) for source in sources for name in _as_list(source["path"])]
        more = f" and {len(named) - _PATHS_SHOWN:,} more" if named[_PATHS_SHOWN:] else ""
        raise Refused(
            f"{RUN_NAME} names {', '.join(named[:_PATHS_SHOWN])}{more}; --source.recorded=true opens that, "
            "--source.path=FILES other files"
        )
    if given.path:
        if len(given.paths) != len(sources) > 1:
            raise Refused(f"--source.path has {len(given.paths)} paths, and the dataset {len(sources)} sources")
        paths = given.paths if len(sources) > 1 else [given.paths]
        sources = [source | {"path": each} for source, each in zip(sources, paths, strict=True)]
    sources = [source | {"format": _format(source.get("format"), given)} for source in sources]
    if given.format is not None and not any(source["format"] == given.format for source in sources):
        raise Refused(f"--source.format={given.format}: no function made the pairs of the dataset; leave it out")
    names = {field.name for field in dataclasses.fields(DatasetSettings)} - {*_NOT_READ}
    values = {name: value for name, value in recorded.items() if name in names}
    values |= {"source": sources if len(sources) > 1 else sources[0]}
    values |= {"tokenizer": fetch_folder(join(folder, TOKENIZER_FOLDER))}
    if isinstance(values.get("num_shards"), Mapping):
        values["num_shards"] = values["num_shards"]["train"]
    return load_settings(DatasetSettings, [f"--config={json.dumps(values)}"], command="oddsmill pipeline explain")


def _format(recorded: Any, given: DumpSource) -> Any:
    if not isinstance(recorded, str) or ":" not in recorded:
        return recorded
    if given.format is None:
        raise Refused(
            f"{RUN_NAME} says that {recorded} made the pairs; code that a dataset names is not imported: where it is "
            "yours, give it by --source.format=module:function"
        )
    return given.format


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _local_folder(path: str, folder: str) -> str:
    """Returns the folder of the dataset that a dump names; a run reads none but those of its own machine."""
    if is_remote(folder):
        raise Refused(f"--dump={path} names the dataset {folder}, which no run has read; give its folder by --data")
    return folder


def _read(path: str) -> _Dump:
    try:
        dump: _Dump = as_type(_Dump, parse_json(read_bounded(path)))
        if not dump.rows:
            raise Malformed("rows: it has none")
    except OSError as error:
        raise Refused(f"--dump={path}: {error.strerror}; a run writes it into its --run_dir") from error
    except Malformed as problem:
        raise Refused(
            f"--dump={path}: not a dump of a training step, which is named nonfinite-step-N.json ({problem})"
        ) from problem
    return dump


def _stored(folder: str, manifest: Manifest, wanted: set[int]) -> Iterator[tuple[Pair, str | None]]:
    """Yields the wanted pairs of the train split, each with its source."""
    if "train" not in manifest.splits:
        return
    summary = manifest.splits["train"]
    for shard in summary.shards:
        try:
            sources = {line.id: line.source for line in read_provenance(folder, shard, most_lines=summary.pairs)}
            if sources and not wanted & sources.keys():
                continue
            for row in read_shard(folder, shard, manifest, max_pairs=summary.max_pairs_per_row):
                for pair in row.pairs():
                    if pair.id in wanted:
                        yield pair, sources.get(pair.id)
        except ValueError as error:
            raise Refused(f"{error}. Run oddsmill pipeline verify {folder}") from error
