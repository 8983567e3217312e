"""One run of stage one, from the settings to the manifest."""

import dataclasses
import os
import platform
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.pipeline.dataflow import check_launch, names_dataflow
from oddsmill.pipeline.drops import DropReason
from oddsmill.pipeline.output import checks, output
from oddsmill.pipeline.resolved_plan import Plan, differences, flat, make_plan
from oddsmill.pipeline.runner import beam_flags, make_pipeline, run_graph
from oddsmill.pipeline.tokens.tokenizer import copy_tokenizer, load_tokenizer
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest
from oddsmill.schemas.stores import check_access


def preprocess(
    config: PreprocessConfig, *, beam_arguments: Sequence[str] = (), say: Callable[[str], None] = print
) -> Manifest:
    """Turns preference rows into a dataset of packed rows in `config.output`.

    Does nothing if the dataset is there already, made of the same input with the same settings.

    Args:
      beam_arguments: options of Beam, as on a command line; they win over `config.beam_options`.
      say: receives each line that is meant for the user.

    Raises:
      Refused: the settings, the input or the output folder cannot be used.
      RunFailed: the run began and could not end well.
    """
    started = time.monotonic()
    p = None
    if names_dataflow(flags := beam_flags(config, beam_arguments)):
        check_launch(flags, [config.output, *config.source.paths])
        p = make_pipeline(config, beam_arguments)  # what its options lack shows before the store is read
    check_access([config.output])
    plan = make_plan(config)
    _announce(plan, say)
    finished = _finished(plan)
    if finished:
        say(f"nothing changed: {config.output} already holds this dataset")
        return finished
    p = p or make_pipeline(config, beam_arguments)
    run = _record(plan, beam_arguments)
    output.begin(config.output, run)
    try:
        tokenizer = load_tokenizer(plan.tokenizer_folder, chat_template=config.chat_template)
        with tempfile.TemporaryDirectory() as copy:
            copy_tokenizer(tokenizer, Path(copy))
            output.put_folder(copy, os.path.join(config.output, TOKENIZER_FOLDER))
        run_graph(p, plan)
        manifest = output.load_manifest(config.output)
        seconds = time.monotonic() - started
        output.finish(config.output, run | {"seconds": round(seconds, 3), "manifest_sha256": manifest.sha256})
    except BaseException:
        output.abandon(config.output)
        raise
    _summarize(manifest, config, seconds, say)
    return manifest


def _finished(plan: Plan) -> Manifest | None:
    """The manifest in the output folder, if a run of the plan would make it again.

    Raises:
      Refused: it is of another run, and may not be overwritten.
    """
    folder = plan.config.output
    if not output.is_finished(folder):
        return None
    try:
        manifest = output.load_manifest(folder)
        record = output.read_json(os.path.join(folder, output.RUN_NAME)) or {}
        changes = differences(plan, manifest, record.get("inputs", []))
        if not changes:
            return manifest if output.is_complete(folder, manifest) else None
    except Refused as refused:
        changes = [str(refused)]
    if plan.config.overwrite:
        return None
    raise Refused(
        f"--output={folder} holds a dataset of another run ({'; '.join(changes)}); "
        "give another folder, or --overwrite=true to replace it"
    )


def _record(plan: Plan, beam_arguments: Sequence[str]) -> dict[str, Any]:
    """What run.json says: all that the manifest must not depend on."""
    return {
        "settings": dataclasses.asdict(plan.config) | {"num_shards": plan.num_shards},
        "beam_arguments": list(beam_arguments),
        "inputs": [dataclasses.asdict(file) for file in plan.inputs],
        "tokenizer_folder": plan.tokenizer_folder,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _announce(plan: Plan, say: Callable[[str], None]) -> None:
    config = plan.config
    size = sum(file.bytes for file in plan.inputs)
    say(f"input      {', '.join(plan.paths[:3])}{' …' if len(plan.paths) > 3 else ''} ({size:,} bytes)")
    detected = "" if config.source.format else " (detected)"
    say(f"format     {plan.format_name}{detected}")
    say(f"tokenizer  {config.tokenizer} ({plan.tokenizer.vocab_size:,} ids)")
    settings = [f"{name}={value}" for name, value in flat(plan.settings).items() if name != "source.format"]
    say(textwrap.fill("  ".join(settings), 110, initial_indent="settings   ", subsequent_indent=" " * 11))
    if config.max_prompt_length >= config.max_length:
        say(
            f"note       prompts are not cut below max_prompt_length={config.max_prompt_length}, so one that long "
            f"leaves no room for an answer within max_length={config.max_length} and is dropped"
        )


def _summarize(manifest: Manifest, config: PreprocessConfig, seconds: float, say: Callable[[str], None]) -> None:
    ledger = manifest.ledger
    say("")
    say(f"{ledger.rows_in:>12,} rows in")
    for reason, count in ledger.drops.items():
        say(f"{-count:>12,} {reason:<18} {DropReason(reason).meaning}")
    say(f"{ledger.pairs_out:>12,} pairs out")
    say("")
    for name, split in sorted(manifest.splits.items(), reverse=True):
        tokens = sum(split.tokens.values())
        cut = ", ".join(f"{count:,} {side}" for side, count in split.truncated.items() if count)
        say(
            f"{name:<10} {split.pairs:>9,} pairs in {split.rows:,} rows of {manifest.row_length:,} slots, "
            f"{tokens:,} tokens, {split.padding_share:.1%} padding" + (f"; cut: {cut}" if cut else "")
        )
    for line in checks.describe(manifest.counts, ledger.pairs_out, manifest.tokenizer):
        say(f"check      {line}")
    if "eval" in manifest.splits and not manifest.splits["eval"].pairs:
        say("note       no prompt fell to the eval split; a higher --eval_share gives it some")
    say(f"{'rejects':<10} {config.output}/{output.REJECTS_FOLDER}/" if ledger.drops else "rejects    none")
    say(f"dataset    {config.output} (manifest {manifest.sha256[:12]}), in {seconds:.1f} s")
