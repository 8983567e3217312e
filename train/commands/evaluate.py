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

from oddsmill.schemas.chat.identity import differences
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.files import check_place, check_writable, publish_text
from oddsmill.schemas.manifest import BOS_BEFORE_TEXTS, TOKENIZER_FOLDER
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.loss import LossSettings
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset, open_dataset
from oddsmill.train.data.provenance import Place, place_of_each, read_places
from oddsmill.train.data.verified_shards import read_verified_shards, verify_shards
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.loss.pairs import PreferenceLoss, describing_terms
from oddsmill.train.model.frozen import join_params
from oddsmill.train.parallel.agreement import check_agreement, check_same
from oddsmill.train.parallel.coordination import process_index
from oddsmill.train.parallel.processes import join_processes, together
from oddsmill.train.parallel.sharding import make_mesh, num_row_shards
from oddsmill.train.prepare import Run
from oddsmill.train.run_folder import restore_run
from oddsmill.train.step.evaluation import Evaluation, Pairs
from oddsmill.train.step.program import check_row_length
from oddsmill.train.step.step import Objective
from oddsmill.train.weights.model_facts import model_facts
from oddsmill.train.weights.model_files import check_ids, check_tokenizer, find_model, load_decoder, read_model_files

_COMMAND = "oddsmill train eval"


class _Measured(NamedTuple):
    """The objective of a decoder, all its weights, and the rows to measure them on."""

    objective: Objective
    params: dict[str, Any]
    dataset: Dataset


def run_evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Prints the metrics, keys `eval/…` as in a run's metrics.jsonl, and writes the files that are asked for.

    Raises:
      Refused: model and data do not fit each other, or one cannot be used.
    """
    join_processes(config.distributed)
    with together():
        return _run_evaluate(config)


def _run_evaluate(config: EvaluateConfig) -> dict[str, float]:
    for setting, path in (("out", config.out), ("metrics_out", config.metrics_out)):
        if path is None or process_index() > 0:  # the first process writes
            continue
        check_place(path, setting)
        if not Path(path).absolute().parent.is_dir():
            raise Refused(f"{path}: there is no folder {Path(path).absolute().parent}; make it first")
        if Path(path).is_dir():
            raise Refused(f"{path}: is a folder; give a file")
        check_writable(Path(path).absolute().parent, path)
    with _stdout_kept_free():
        objective, params, dataset = _of_run(config) if config.run_dir else _of_model(config)
        data, manifest = dataset.folder, dataset.manifest
        if not dataset.num_rows(config.split):
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
    dataset = open_dataset(config.data)
    folder = find_model(config.model)
    check_agreement(
        _COMMAND,
        config,
        apart=("data", "model"),
        facts=lambda: {"the manifest of --data": dataset.manifest.sha256, **model_facts(folder)},
    )
    verify_shards([dataset], {})
    model = read_model_files(folder, disable_dropout=False)  # an evaluation drops nothing in any case
    check_tokenizer(dataset.manifest, model, data=config.data)
    mesh = make_mesh(config.mesh or MeshConfig())
    definition, params = load_decoder(
        folder,
        model.decoder_config,
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
    return _Measured(objective, params, dataset)


def _of_run(config: EvaluateConfig) -> _Measured:
    assert config.run_dir is not None  # by run_evaluate
    run, step, params, frozen = restore_run(config, command=_COMMAND)
    log.info(f"{config.run_dir}: the checkpoint of step {step}")
    dataset = rows_for_run(config, run)
    check_ids(dataset.manifest, run.model, data=dataset.folder)
    row_length = dataset.manifest.row_length
    check_row_length(run.program, run.config, run.model.decoder_config, row_length, data=dataset.folder)
    preference = preference_loss(_loss_settings(config, run.config))
    objective = dataclasses.replace(run.program.objective, preference=preference)
    return _Measured(objective, join_params(params, frozen), dataset)


def _loss_settings(config: EvaluateConfig, of_run: LossSettings) -> LossSettings:
    """Returns the settings of the loss: those that are given, else the run's, but for a loss that is not the run's."""
    names = [field.name for field in dataclasses.fields(LossSettings)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    base = of_run if config.loss in (None, of_run.loss) else LossSettings(loss=config.loss)
    return LossSettings(**{name: getattr(base, name) for name in names} | given)


def rows_for_run(config: EvaluateConfig, run: Run) -> Dataset:
    """Returns the rows that a run is measured on: its own, where no others are given.

    Raises:
      Refused: the run's own rows are gone or others now, or those that are given were made with another tokenizer.
    """
    own = run.eval_data if config.split == "eval" else run.data
    if config.data is None and not Path(own.folder).is_dir():
        raise Refused(f"{own.folder}, the data of the run, are not there any more; give rows by --data")
    dataset = open_dataset(config.data or own.folder)
    if config.data is None and dataset.manifest.sha256 != own.manifest.sha256:
        raise Refused(f"{own.folder} was preprocessed anew since the run; give rows by --data")
    check_same({"the manifest of the data": dataset.manifest.sha256})
    verify_shards([dataset], read_verified_shards(run.files.verified_shards))
    given, trained = dataset.manifest.tokenizer, run.data.manifest.tokenizer
    same = given.sha256["tokenizer.json"] == trained.sha256["tokenizer.json"]
    different = (
        [] if same else differences(dataset.manifest, Path(dataset.folder) / TOKENIZER_FOLDER, run.files.tokenizer)
    )
    different += [] if given.begins_texts_as(trained) else [BOS_BEFORE_TEXTS]
    if different:
        raise Refused(
            f"--data={dataset.folder} was made with another tokenizer than {run.data.folder}, which the run was "
            f"trained on; they differ in: {', '.join(different)}. Preprocess with the same"
        )
    return dataset


def pair_lines(pairs: Pairs, places: Sequence[Place | None], loss: PreferenceLoss) -> Iterator[dict[str, Any]]:
    """Yields an object for each pair, in stored order.

    `logp_chosen` and `logp_rejected` are log-probabilities of the answers as the loss reads them, and `nll` is the mean
    over its own tokens, in nats; `source` is `file:row`, null where the data do not say it. Terms of the loss that
    describe a pair stand under their own names. Tokens of answers that no loss counts are in none of the numbers.
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
    """Sends to standard error what is written to standard output meanwhile: that holds the metrics alone.

    By file descriptor too, for libraries that are not Python: gloo writes there which peers it has found.
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
    try:
        publish_text(path, text)
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error.strerror})") from error
