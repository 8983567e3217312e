"""A run's folder describes itself: what it holds from the start, and how a checkpoint comes out of it again.

An export, an evaluation on other rows or a generation needs this folder alone, and of a run with frozen weights the
model that it started from, but no dataset.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.dataset_files import damaged_tokenizer
from oddsmill.schemas.errors import Refused, RunFailed, one_line
from oddsmill.schemas.files import check_place, check_writable, publish_folder, publish_text
from oddsmill.schemas.manifest import TOKENIZER_FOLDER, read_manifest_file
from oddsmill.schemas.settings import settings_as_yaml
from oddsmill.schemas.text.redaction import redact
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.digests import digest
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.config.devices import DistributedConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.model.lora import merge_lora
from oddsmill.train.monitor.metrics import metrics_at
from oddsmill.train.monitor.sinks import explain_write_errors
from oddsmill.train.parallel.agreement import check_agreement, check_folder_is_shared
from oddsmill.train.parallel.coordination import process_index
from oddsmill.train.parallel.processes import join_processes, together
from oddsmill.train.prepare import Run, build_run_program
from oddsmill.train.run_lock import locked_export
from oddsmill.train.weights.export import export_adapter, export_model
from oddsmill.train.weights.generation_config import read_generation_config
from oddsmill.train.weights.model_card import model_card
from oddsmill.train.weights.model_facts import sampled_digest
from oddsmill.train.weights.model_files import find_model, read_model_files
from oddsmill.train.weights.sums import check_sums, write_sums
from oddsmill.train.weights.tokenizer_files import FURTHER_FILES, copy_tokenizer


def write_run_folder(run: Run) -> None:
    """Writes what describes the run into its folder, which exists. The first process writes.

    Raises:
      Refused: another process has another folder there.
      RunFailed: it cannot be written.
    """
    check_folder_is_shared(run.files.folder, setting="run_dir")
    if jax.process_index() > 0:
        return
    with explain_write_errors(run.files.folder):
        _write_run_folder(run, run.files)


def _write_run_folder(run: Run, files: RunFiles) -> None:
    files.sums.unlink(missing_ok=True)  # a kill between two files leaves a folder without, which is not checked
    publish_text(files.manifest, run.data.manifest.to_json())
    if run.config.eval_data:
        publish_text(files.eval_manifest, run.eval_data.manifest.to_json())
    else:
        files.eval_manifest.unlink(missing_ok=True)  # an earlier start may have measured other rows
    publish_text(files.model_config, json.dumps(run.model.hf_config, indent=2, ensure_ascii=False) + "\n")
    if run.model.folder.resolve() == files.folder.resolve():
        pass  # a model's config.json lies in the folder of its own run
    elif (run.model.folder / files.generation_config.name).is_file():
        content = read_generation_config(run.model.folder)
        publish_text(files.generation_config, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    else:
        files.generation_config.unlink(missing_ok=True)  # an earlier start may have had another model
    with publish_folder(files.tokenizer) as unfinished:
        copy_tokenizer(unfinished, Path(run.data.folder) / TOKENIZER_FOLDER, run.model.folder)
    publish_text(files.verified_shards, json.dumps(run.verified_shards, indent=2) + "\n")
    publish_text(files.settings, settings_as_yaml(run.config))  # last: where it is, all is there
    write_sums(files.folder, files.described_by())


class RestoredRun(NamedTuple):
    """A run as it stood after `step` steps; `params` are the trained weights, `frozen` the others."""

    run: Run
    step: int
    params: dict[str, Any]
    frozen: dict[str, Any]


def restore_run(asked: EvaluateConfig, *, command: str) -> RestoredRun:
    """Reads the weights of a checkpoint, and what the run's folder says of the run. A dataset is not read.

    Args:
      asked: the settings of the command. Its run_dir may have been moved; its processes are those of now.
      command: its name, such as `oddsmill train export`.

    Raises:
      Refused: no such run or checkpoint, a file that describes the run is altered, the frozen weights are no longer
        what they were, or other processes were started differently.
    """
    run = read_run_folder(asked, command=command)
    step, params, frozen = restore_weights(run, asked.checkpoint)
    return RestoredRun(run, step, params, frozen)


def read_run_folder(asked: ExportConfig | EvaluateConfig | GenerateConfig, *, command: str) -> Run:
    """Returns the run that a folder describes, without reading its dataset. Arguments and errors: see `restore_run`."""
    assert asked.run_dir is not None  # by the commands
    run_dir, files = asked.run_dir, RunFiles(asked.run_dir)
    distributed = DistributedConfig() if isinstance(asked, GenerateConfig) else asked.distributed
    join_processes(distributed)
    if not files.settings.is_file():
        raise Refused(f"--run_dir={run_dir}: not the folder of a run, it has no {files.settings.name}")
    for path in (files.manifest, files.model_config, files.tokenizer):
        if not path.exists():
            raise Refused(
                f"--run_dir={run_dir} has no {path.name}: an older version began this run; the command that began it, "
                "given once more, adds it"
            )
    check_sums(files.folder, remedy="The command that began the run, given once more, writes them anew")
    config = load_settings(TrainConfig, ["--config", str(files.settings)], command=command)
    config = dataclasses.replace(config, run_dir=run_dir, mesh=asked.mesh or config.mesh, distributed=distributed)
    described = (files.settings, files.manifest, files.eval_manifest, files.model_config)
    check_agreement(
        command,
        asked,
        apart=("data",),  # of an evaluation, which compares their manifest
        facts=lambda: {f"{path.name} of --run_dir": sampled_digest(path) for path in described if path.exists()},
    )
    data = eval_data = _described_data(config.data, files.manifest)
    damage = list(damaged_tokenizer(files.tokenizer, data.manifest, further=FURTHER_FILES))
    if damage:
        raise Refused("; ".join(damage) + f". The command that began the run in {run_dir}, given once more, mends it")
    if config.eval_data:
        eval_data = _described_data(config.eval_data, files.eval_manifest)
    model = read_model_files(files.folder, disable_dropout=config.disable_dropout)
    has_frozen_weights = config.lora is not None or config.frozen_parameters
    model_path = find_model(config.model) if config.model.path and has_frozen_weights else files.folder
    program = build_run_program(config, data, eval_data, model, model_path=model_path)
    return Run(config=config, data=data, eval_data=eval_data, model=model, program=program, verified_shards={})


def _described_data(folder: str, manifest: Path) -> Dataset:
    return Dataset(folder, read_manifest_file(manifest))


def restore_weights(run: Run, checkpoint: int | None) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Returns the step of a checkpoint, its trained weights, and the frozen ones. Arguments: see `restore_run`.

    Raises:
      Refused: there is no such checkpoint, or it is damaged, or not of this run.
    """
    with Checkpoints(run.files.checkpoints, identity=run.identity, save_total_limit=None) as checkpoints:
        checkpoints.check_identity()
        step = checkpoints.find_step(checkpoint, best=run.config.load_best_model_at_end)
        frozen = frozen_weights(run)
        params = checkpoints.restore_params(step, run.program.abstract_state["params"], frozen_digest=digest(frozen))
    return step, params, frozen


def frozen_weights(run: Run) -> dict[str, Any]:
    """Returns the weights that no checkpoint holds, from where the run got them; empty where all are trained."""
    if not run.program.has_frozen_weights:
        return {}
    folder = find_model(run.config.model) if run.config.model.path else None
    return run.program.initial_weights(run.config.seed, folder)[1]


def export_checkpoint(config: ExportConfig) -> int:
    """Exports a checkpoint of a run; returns its step.

    Raises:
      Refused: no such run or checkpoint, or a folder of that name that is not empty.
      RunFailed: the folder cannot be written.
    """
    join_processes(config.distributed)
    with together():
        return _export_checkpoint(config, Path(config.out))


def _export_checkpoint(config: ExportConfig, out: Path) -> int:
    check_place(config.out, "out")
    # Another process than the first, which writes, may have other disks.
    if process_index() == 0 and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out={out} exists and is not empty; give another folder")
    if process_index() == 0:
        check_writable(out, f"--out={out}")
    run = read_run_folder(config, command="oddsmill train export")
    if config.adapter and run.config.lora is None:
        raise Refused(f"--adapter=true: the run in {config.run_dir} trained no adapters; leave it out")
    with locked_export(out, what=f"--out={out}", command="oddsmill train export"):
        step, params, frozen = restore_weights(run, config.checkpoint)
        if config.adapter:
            export_run_adapter(run, out, params, step=step)
        else:
            dtype, size = config.dtype, config.max_shard_size
            export_run_model(run, out, params, frozen, step=step, dtype=dtype, max_shard_size=size)
    return step


def export_run_model(
    run: Run,
    folder: Path,
    params: dict[str, Any],
    frozen: dict[str, Any],
    *,
    step: int,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Writes the model of a run, adapters merged into its weights, as a Hugging Face folder.

    Args:
      params, frozen: the trained weights after `step` steps, and the others.
      dtype: what weights are cast to; None leaves each as it is.

    Raises:
      RunFailed: it cannot be written.
    """
    try:
        export_model(
            folder,
            params=merge_lora(params, frozen, run.config.lora, dtype=dtype),
            model=run.model,
            tokenizer_folder=run.files.tokenizer,
            tokenizer=run.data.manifest.tokenizer,
            card=_card(run, step, adapter=False),
            dtype=dtype,
            max_shard_size=max_shard_size,
        )
    except OSError as error:
        raise _cannot_write(run, folder, error) from error


def export_run_adapter(run: Run, folder: Path, params: dict[str, Any], *, step: int) -> None:
    """Writes the adapters of a run as PEFT has them. Arguments and errors: see `export_run_model`."""
    assert run.config.lora is not None
    try:
        export_adapter(
            folder,
            params=params,
            lora=run.config.lora,
            base_model=run.config.model,
            num_layers=run.model.decoder_config.num_hidden_layers,
            tokenizer_folder=run.files.tokenizer,
            card=_card(run, step, adapter=True),
        )
    except OSError as error:
        raise _cannot_write(run, folder, error) from error


def _card(run: Run, step: int, *, adapter: bool) -> str:
    if jax.process_index() > 0:
        return ""  # only the first process is sure to see the metrics that it has written
    return model_card(
        model=run.config.model,
        lora=run.config.lora,
        loss=run.program.objective.preference,
        settings=redact(dataclasses.asdict(run.config)),
        metrics=metrics_at(run.files.metrics, step),
        manifest=run.data.manifest,
        eval_manifest=run.eval_data.manifest,
        decoder=run.model.decoder_config,
        step=step,
        adapter=adapter,
    )


def _cannot_write(run: Run, folder: Path, error: OSError) -> RunFailed:
    return RunFailed(
        f"{folder} could not be written ({one_line(error)}). The checkpoint is there: make room or give another "
        f"folder, then oddsmill train export --run_dir={run.config.run_dir} --out=FOLDER"
    )
