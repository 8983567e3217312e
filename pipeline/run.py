"""`run`: the whole of preprocessing, from the settings to the manifest."""

import contextlib
import dataclasses
import os
import platform
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oddsmill.pipeline.config import NAMES_OF_ROWS, PreprocessConfig
from oddsmill.pipeline.dataflow import check_launch, names_dataflow
from oddsmill.pipeline.input.parts import Input
from oddsmill.pipeline.output import checks, folder
from oddsmill.pipeline.output.accounts import FileAccount, describe_accounts, take_accounts
from oddsmill.pipeline.output.run_record import FILES, read_run, seal
from oddsmill.pipeline.output.seen import describe_not_read
from oddsmill.pipeline.resolved_run import ResolvedRun, differences, flat, resolve_run, with_engine
from oddsmill.pipeline.runner import beam_flags, count_workers, make_pipeline, run_graph, temporary_for, within_threads
from oddsmill.pipeline.tokens.engine import file_of_fastokens
from oddsmill.pipeline.tokens.tokenizer import copy_tokenizer, load_for_run
from oddsmill.pipeline.workers.pool import WorkerPool, started_pool
from oddsmill.schemas.console import log
from oddsmill.schemas.drops import DropReason
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.files import check_place
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, Manifest, file_sha256
from oddsmill.schemas.process.signals import on_end
from oddsmill.schemas.process.temporary import temporary_folder
from oddsmill.schemas.stores import check_access, files_under
from oddsmill.schemas.text.redaction import redact, redact_arguments

if TYPE_CHECKING:
    import apache_beam as beam

_LONGEST_NAME_INSIDE = len("rejects/") + 255  # a reject has the name of its input, within what names may have


def preprocess(config: PreprocessConfig, *, beam_arguments: Sequence[str] = ()) -> Manifest:
    """Turns preference rows into a dataset of packed rows in `config.output`.

    It does nothing if the dataset is there already, made of the same input with the same settings. Its messages go
    to the logger `oddsmill`.

    Args:
      beam_arguments: options of Beam, as on a command line; they win over `config.beam_options`.

    Returns: the manifest of the dataset.

    Raises:
      Refused: the settings, the input or the output folder cannot be used.
      RunFailed: the run began and could not end well.
    """
    started = time.monotonic()
    p = None
    if names_dataflow(flags := beam_flags(config, beam_arguments)):
        check_launch(flags, [config.output, *(path for source in config.sources for path in source.paths)])
        p = make_pipeline(config, beam_arguments)  # what its options lack shows before the store is read
    check_access([config.output])
    check_place(config.output, "output", below=_LONGEST_NAME_INSIDE)
    with contextlib.ExitStack() as stack:
        pools: list[WorkerPool | None] = []

        def start_pool(inputs: list[Input], tokenizer: Path) -> None:
            count, needed = count_workers(config, inputs, p), config.dataset_num_proc is not None
            early = file_of_fastokens(config, tokenizer, text_bytes=sum(each.text_bytes for each in inputs))
            pool = stack.enter_context(started_pool(count, needed=needed, tokenizer=early))
            if pool is not None:
                pool.prepare(tokenizer, config)
            pools.append(pool)

        # Where no option of Beam has a say, they start while the tokenizer is looked at and Beam is imported.
        starts_early = not flags and not folder.is_finished(config.output)
        resolved = resolve_run(config, found=start_pool if starts_early else None)
        _announce(resolved)
        if (finished := _finished(resolved)) is not None:
            return finished
        if pools and pools[0]:
            pools[0].choose_engine(resolved)
        p = p or make_pipeline(config, beam_arguments)
        stack.enter_context(temporary_for(p))
        if not pools:
            start_pool(resolved.inputs, Path(resolved.tokenizer_folder))
            if pools[0]:
                pools[0].choose_engine(resolved)
        pool = within_threads(p, resolved, pools[0])
        if pool is None:
            resolved = with_engine(resolved)
            log.info(f"engine     {resolved.engine}")
        elif config.tokenizer_engine == "fastokens":
            _ = pool.engine  # it is refused, if it is, before the folder of an earlier dataset is cleared
        resolved = dataclasses.replace(resolved, sample=[])
        lock = stack.enter_context(folder.locked_folder(config.output))
        if (finished := _finished(resolved)) is not None:  # another run has made it meanwhile
            return finished
        record = _record(resolved, beam_arguments)
        folder.begin(config.output, record, lock, config.overwrite)
        try:
            with on_end(lambda: folder.abandon(config.output, lock)):
                manifest, accounts, digests = _write(p, dataclasses.replace(resolved, lock=lock), pool)
            record["inputs"] = [
                each | {name: value for name, value in account._asdict().items() if name != "path"}
                for each, account in zip(record["inputs"], accounts, strict=True)
            ]
            seconds = time.monotonic() - started
            record |= {"seconds": round(seconds, 3), "manifest_sha256": manifest.sha256, FILES: digests}
            folder.finish(config.output, seal(record), lock)
        except BaseException:
            folder.abandon(config.output, lock)
            raise
        _summarize(manifest, accounts, config, seconds)
    return manifest


def _write(
    p: "beam.Pipeline", resolved: ResolvedRun, pool: WorkerPool | None
) -> tuple[Manifest, list[FileAccount], dict[str, str]]:
    """Runs the graph into the folder, which is empty.

    Returns: the manifest, the account of each input file, and the digests of files that the manifest does not have.
    """
    output = resolved.output
    tokenizer = load_for_run(resolved.tokenizer_folder, resolved.config)
    with temporary_folder() as copy:
        copy_tokenizer(tokenizer, Path(copy))
        if {name: file_sha256(os.path.join(copy, name)) for name in files_under(copy)} != resolved.tokenizer.sha256:
            raise RunFailed(f"{resolved.tokenizer_folder}: the tokenizer changed while the run began; run again")
        folder.put_folder(copy, os.path.join(output, TOKENIZER_FOLDER), resolved.lock)
    run_graph(p, resolved, pool)
    return folder.load_manifest(output), *take_accounts(output)


def _finished(resolved: ResolvedRun) -> Manifest | None:
    """Returns the manifest in the output folder, if the run would make the same one again.

    Raises:
      Refused: the folder holds the dataset of another run, or a damaged one, and `overwrite` is off.
    """
    path = resolved.output
    if not folder.is_finished(path):
        return None
    try:
        manifest = folder.load_manifest(path)
        record = read_run(path) or {}
        changes = differences(resolved, manifest, record.get("inputs", []))
        if not changes and folder.is_complete(path, manifest):
            log.info(f"nothing changed: {path} already holds this dataset")
            return manifest
        if not changes:
            return None
        held = f"a dataset of another run ({'; '.join(changes)})"
    except Refused as refused:
        if not folder.is_ours(path):
            return None  # `begin` refuses it
        held = f"a damaged dataset ({refused})"
    if resolved.config.overwrite:
        return None
    raise Refused(f"--output={path} holds {held}; give another folder, or --overwrite=true to replace it")


def _record(resolved: ResolvedRun, beam_arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the content of run.json: all that the manifest must not depend on, without secrets."""
    settings = dataclasses.asdict(resolved.config) | {"num_shards": resolved.num_shards}
    return {
        "settings": redact(settings, names_of_rows=NAMES_OF_ROWS),
        "beam_arguments": redact_arguments(beam_arguments),
        "inputs": redact(resolved.input_records(), names_of_rows=NAMES_OF_ROWS),
        "tokenizer_folder": resolved.tokenizer_folder,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _announce(resolved: ResolvedRun) -> None:
    config = resolved.config
    size = sum(file.bytes for file in resolved.inputs)
    log.info(f"input      {', '.join(resolved.paths[:3])}{' …' if len(resolved.paths) > 3 else ''} ({size:,} bytes)")
    for number, line in enumerate(resolved.formats):
        log.info(f"{'' if number else 'format':<10} {line}")
    if resolved.not_read:
        log.info(f"not read   {describe_not_read(resolved.not_read, of=resolved.rows_looked_at)}: no part of a pair")
    log.info(f"tokenizer  {config.tokenizer} ({resolved.tokenizer.vocab_size:,} ids)")
    for number, line in enumerate(resolved.bos):
        log.info(f"{'' if number else 'BOS':<10} {line}")
    # The lines above say the format, and where the sources differ all else that they have.
    others = {name: value for name, value in resolved.settings.items() if not isinstance(value, list)}
    settings = [f"{name}={value}" for name, value in flat(others).items() if name != "source.format"]
    log.info(textwrap.fill("  ".join(settings), 110, initial_indent="settings   ", subsequent_indent=" " * 11))
    for note in resolved.notes:
        log.info(f"note       {note}")


def _summarize(manifest: Manifest, accounts: Sequence[FileAccount], config: PreprocessConfig, seconds: float) -> None:
    ledger = manifest.ledger
    log.info("")
    log.info(f"{ledger.rows_in:>12,} rows in")
    for reason, count in ledger.drops.items():
        log.info(f"{-count:>12,} {reason:<18} {DropReason(reason).meaning}")
    log.info(f"{ledger.pairs_out:>12,} pairs out")
    log.info("")
    for line in describe_accounts(accounts):
        log.info(f"drops in   {line}")
    if manifest.not_read:
        log.info(f"not read   {describe_not_read(manifest.not_read)}")
    for name, split in sorted(manifest.splits.items(), reverse=True):
        tokens = sum(split.tokens.values())
        cut = ", ".join(f"{count:,} {side}" for side, count in split.truncated.items() if count)
        unscored = sum(split.unscored.values()) / max(1, tokens - split.tokens["prompt"])
        log.info(
            f"{name:<10} {split.pairs:>9,} pairs in {split.rows:,} rows of {manifest.row_length:,} slots, "
            f"{tokens:,} tokens, {split.padding_share:.1%} padding"
            + (f"; cut: {cut}" if cut else "")
            + (f"; without loss: {unscored:.1%} of the answers' tokens" if split.unscored else "")
        )
    for line in checks.describe(manifest.counts, ledger.pairs_out, manifest.tokenizer):
        log.info(f"check      {line}")
    if "eval" in manifest.splits and not manifest.splits["eval"].pairs:
        log.info("note       no prompt fell to the eval split; a higher --eval_share gives it some")
    log.info(f"{'rejects':<10} {config.output}/{folder.REJECTS_FOLDER}/" if ledger.drops else "rejects    none")
    log.info(f"dataset    {config.output} (manifest {manifest.sha256[:12]}), in {seconds:.1f} s")
