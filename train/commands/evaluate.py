"""`oddsmill train eval`: a model and a preprocessed split in, the metrics of training out."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.manifest import Manifest, check_shards, read_manifest
from oddsmill.train.checkpoint.restoring import Restored, restore_run
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.loss import LossSettings
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import num_rows
from oddsmill.train.data.provenance import Place, place_of_each, read_places
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.loss.pairs import PreferenceLoss, describing_terms
from oddsmill.train.model.frozen import join_params
from oddsmill.train.model.hf_config import parse_config, read_config
from oddsmill.train.parallel.processes import join_processes
from oddsmill.train.parallel.sharding import make_mesh, num_row_shards
from oddsmill.train.setup import check_tokenizer
from oddsmill.train.step.evaluation import Evaluation, Pairs
from oddsmill.train.step.step import Objective
from oddsmill.train.weights.hub import find_model
from oddsmill.train.weights.loading import load_decoder


class _Measured(NamedTuple):
    """What is measured: the objective of a decoder, all its weights, and the folder of the rows."""

    objective: Objective
    params: dict[str, Any]
    data: str
    manifest: Manifest


def run_evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Prints the metrics, keys `eval/…` as in a run's metrics.jsonl, and writes the files that are asked for.

    Raises:
      Refused: model and data do not fit each other, or one cannot be used.
    """
    for path in (config.out, config.metrics_out):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise Refused(f"{path}: there is no folder {Path(path).absolute().parent}; make it first")
    with _stdout_kept_free():
        objective, params, data, manifest = _of_run(config) if config.run_dir else _of_model(config)
        if not num_rows(manifest, config.split):
            raise Refused(f"--split={config.split}: {data} has no rows of it")
        shares = num_row_shards(objective.mesh)
        problem = f"must be a multiple of the {shares} devices that rows are spread over"
        require(config.batch_size % shares == 0, "batch_size", config.batch_size, problem)
        evaluation = Evaluation(
            objective, data=data, manifest=manifest, split=config.split, batch_size=config.batch_size
        )
        with jax.set_mesh(objective.mesh):
            pairs = evaluation.pairs(params)
    metrics = evaluation.metrics(pairs)
    if jax.process_index() == 0:
        if config.out is not None:
            places = place_of_each(pairs["pair_ids"].tolist(), read_places(data, manifest, config.split))
            _publish(
                config.out, "".join(json.dumps(line) + "\n" for line in pair_lines(pairs, places, objective.preference))
            )
        text = json.dumps(metrics, indent=2) + "\n"
        if config.metrics_out is not None:
            _publish(config.metrics_out, text)
        print(text, end="")
    return metrics


def _of_model(config: EvaluateConfig) -> _Measured:
    assert config.model is not None and config.model.path is not None and config.data is not None  # by EvaluateConfig
    join_processes(config.distributed)
    manifest = read_manifest(config.data)
    check_shards(config.data, manifest)
    folder = find_model(config.model.path, config.model.revision)
    decoder_config, unused = parse_config(read_config(folder), path=str(folder))
    if unused and jax.process_index() == 0:
        print(f"{folder}: fields that are not known here and not used: {', '.join(unused)}")
    check_tokenizer(manifest, decoder_config, folder, data=config.data)
    mesh = make_mesh(config.mesh or MeshConfig())
    definition, params = load_decoder(
        folder,
        decoder_config,
        mesh,
        param_dtype=config.param_dtype or TrainConfig.param_dtype,
        compute_dtype=config.compute_dtype or TrainConfig.compute_dtype,
    )
    objective = Objective(
        definition=definition,
        mesh=mesh,
        preference=preference_loss(_loss_settings(config, LossSettings())),
        max_pairs=1,  # the split says it
    )
    return _Measured(objective, params, config.data, manifest)


def _of_run(config: EvaluateConfig) -> _Measured:
    assert config.run_dir is not None  # by run_evaluate
    restored = restore_run(
        config.run_dir,
        command="oddsmill train eval",
        checkpoint=config.checkpoint,
        mesh=config.mesh,
        distributed=config.distributed,
    )
    run = restored.run
    if run.is_writer:
        print(f"{config.run_dir}: the checkpoint of step {restored.step}")
    data, manifest = _rows_for(config, restored)
    preference = preference_loss(_loss_settings(config, restored.config))
    objective = dataclasses.replace(run.objective, preference=preference)
    return _Measured(objective, join_params(restored.params, restored.frozen), data, manifest)


def _loss_settings(config: EvaluateConfig, of_run: LossSettings) -> LossSettings:
    """Returns the settings of the loss: those that are given, and the run's where they are not."""
    names = [field.name for field in dataclasses.fields(LossSettings)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return LossSettings(**{name: getattr(of_run, name) for name in names} | given)


def _rows_for(config: EvaluateConfig, restored: Restored) -> tuple[str, Manifest]:
    """The folder that is measured on and its manifest: those of the run, where none is given."""
    run, of_run = restored.run, restored.config.data
    if config.data is None and config.split == "eval":
        return run.eval_data, run.eval_manifest
    data = config.data or of_run
    if data == of_run:
        return data, run.manifest
    manifest = read_manifest(data)
    check_shards(data, manifest)
    if manifest.tokenizer.sha256["tokenizer.json"] != run.manifest.tokenizer.sha256["tokenizer.json"]:
        raise Refused(
            f"--data={data} was made with another tokenizer than {of_run}, which the run was trained on: "
            "preprocess with the same"
        )
    return data, manifest


def pair_lines(pairs: Pairs, places: Sequence[Place | None], loss: PreferenceLoss) -> Iterator[dict[str, Any]]:
    """Yields an object for each pair, in stored order.

    `logp_chosen` and `logp_rejected` are log-probabilities of the answers as the loss reads them, and `nll` is the mean
    over its own tokens, in nats; `source` is `file:row`, null where the data do not say it. Terms of the loss that
    describe a pair stand under their own names.
    """
    described = describing_terms(loss, pairs)
    for index, (pair, place) in enumerate(zip(pairs["pair_ids"].tolist(), places, strict=True)):
        value = {name: float(values[index]) for name, values in pairs.items() if name != "pair_ids"}
        yield {
            "id": f"{pair:016x}",
            "source": "{}:{}".format(*place) if place else None,
            "logp_chosen": value["chosen_logp"],
            "logp_rejected": value["rejected_logp"],
            **{name: value[name] for name in described},
            "nll": value["nll"] / value["nll_tokens"],
            "nll_tokens": int(value["nll_tokens"]),
            "prompt_tokens": int(value["prompt_tokens"]) + 1,  # the first has no label
            "chosen_tokens": int(value["chosen_tokens"]),
            "rejected_tokens": int(value["rejected_tokens"]),
        }


@contextlib.contextmanager
def _stdout_kept_free() -> Iterator[None]:
    """Standard output holds the metrics alone: what else is said meanwhile goes to standard error.

    By file descriptor too, for libraries that are not Python: gloo tells there which peers it has found.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _publish(path: str, text: str) -> None:
    """The file appears under its name when it is whole."""
    unfinished = f"{path}.unfinished"
    try:
        Path(unfinished).write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error.strerror})") from error
