"""`explain --dump=FILE`: traces the pairs of a training step that was not finite back to their source."""

import dataclasses
import json
from collections.abc import Iterator
from os.path import join
from pathlib import Path
from typing import Any

from rich.console import Console

from oddsmill.pipeline.commands.explain import Explainer
from oddsmill.pipeline.commands.inspect import BRANCH_STYLES, side_text
from oddsmill.pipeline.config import PreprocessConfig, SourceConfig
from oddsmill.pipeline.input.sampling import find_row
from oddsmill.pipeline.output.folder import RUN_NAME, load_manifest
from oddsmill.pipeline.output.reading import read_provenance, read_shard
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.tokens.tokenizer import load_for_run, load_tokenizer
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest
from oddsmill.schemas.record import Pair
from oddsmill.schemas.settings import setting, settings
from oddsmill.schemas.stores import fetch_folder, open_file


@settings()
class DumpConfig:
    """Settings of `oddsmill pipeline explain --dump=FILE`."""

    dump: str = setting("The nonfinite-step-N.json of a run's folder.")
    data: str | None = setting(
        "The folder of the dataset, where it does not lie any more where the run found it.",
        default=None,
    )


def explain_dump(config: DumpConfig, console: Console | None = None) -> None:
    """Prints the step, then tokens and source of each pair of the rows that are not finite (of all, if none is).

    Raises:
      Refused: no such dump, or not its dataset.
    """
    dump = _read(config.dump)
    folder = config.data or dump["data"]
    manifest = load_manifest(folder)
    not_finite = [row for row in dump["rows"] if not row.get("finite", True)]
    ids = [int(pair, 16) for row in not_finite or dump["rows"] for pair in row["pairs"]]
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(f"step {dump['step']}: loss {dump['loss']}, gradient norm {dump['grad_norm']}")
    if "finite" in dump["rows"][0]:
        console.print(
            f"{len(not_finite)} of its {len(dump['rows'])} rows are not finite alone at the weights of that step"
        )
    found = {pair.id: (pair, source) for pair, source in _stored(folder, manifest, set(ids))}
    if missing := set(ids) - found.keys():
        raise Refused(f"{folder} has no pair {min(missing):016x}: it is not the dataset of the dump; give --data")
    tokenizer = load_tokenizer(fetch_folder(join(folder, TOKENIZER_FOLDER)))
    rows = _SourceRows(folder, console)
    for identity in dict.fromkeys(ids):
        pair, source = found[identity]
        console.print(f"\npair {identity:016x}  {source or ''}", style="bold")
        for side in BRANCH_STYLES:
            console.print(side_text(pair, side, tokenizer))
        rows.explain(source)


class _SourceRows:
    """Explains source rows of a dataset with the settings that it was made with, where the source can be read."""

    def __init__(self, folder: str, console: Console):
        self._console, self._explainer = console, None
        try:
            with open_file(join(folder, RUN_NAME)) as file:
                settings = json.load(file)["settings"]
            names = {field.name for field in dataclasses.fields(PreprocessConfig)}
            settings = {name: value for name, value in settings.items() if name in names}
            source = settings["source"]
            several = isinstance(source, list)
            settings["source"] = [SourceConfig(**each) for each in source] if several else SourceConfig(**source)
            if isinstance(settings["num_shards"], dict):
                settings["num_shards"] = settings["num_shards"]["train"]
            self._resolved = resolve_run(PreprocessConfig(**settings))
            text_tokenizer = load_for_run(self._resolved.tokenizer_folder, self._resolved.config)
            self._explainer = Explainer(self._resolved, text_tokenizer, console)
        except (Refused, OSError, ValueError, KeyError, TypeError) as error:
            console.print(f"the source is not read: {error}", style="dim")

    def explain(self, source: str | None) -> None:
        if self._explainer is None or source is None:
            return
        try:
            self._explainer.explain(find_row(self._resolved.inputs, source, None))
        except Refused as refusal:
            self._console.print(f"the source is not read: {refusal}", style="dim")


def _read(path: str) -> dict[str, Any]:
    try:
        dump = json.loads(Path(path).read_text(encoding="utf-8"))
        assert isinstance(dump["rows"], list) and dump["rows"]
        return {name: dump[name] for name in ("step", "loss", "grad_norm", "data", "rows")}
    except OSError as error:
        raise Refused(f"--dump={path}: {error.strerror}; a run writes it into its --run_dir") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise Refused(f"--dump={path}: not a dump of a training step, which is named nonfinite-step-N.json") from error


def _stored(folder: str, manifest: Manifest, wanted: set[int]) -> Iterator[tuple[Pair, str | None]]:
    """Yields the wanted pairs of the train split, each with its source."""
    summary = manifest.splits["train"]
    for shard in summary.shards:
        sources = {line.id: line.source for line in read_provenance(folder, shard)}
        if sources and not wanted & sources.keys():
            continue
        try:
            for row in read_shard(folder, shard, manifest, max_pairs=summary.max_pairs_per_row):
                for pair in row.pairs():
                    if pair.id in wanted:
                        yield pair, sources.get(pair.id)
        except ValueError as error:
            raise Refused(f"{error}. Run oddsmill pipeline verify {folder}") from error
