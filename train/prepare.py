"""Everything that a run needs before its first step, read and checked against each other."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.files import check_name, check_place
from oddsmill.schemas.manifest import Manifest
from oddsmill.schemas.settings import fixed_settings
from oddsmill.train.checkpoint.best import Best, make_best
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.dataset import Dataset, open_dataset, open_train_data
from oddsmill.train.data.verified_shards import VerifiedShards, read_verified_shards, verify_shards
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.loss.pairs import metric_names
from oddsmill.train.model.hf_config import DecoderConfig, num_parameters
from oddsmill.train.monitor.wandb_sink import import_wandb
from oddsmill.train.parallel.agreement import check_agreement
from oddsmill.train.parallel.processes import join_processes
from oddsmill.train.step.batch_rules import batch_rules
from oddsmill.train.step.evaluation import Evaluation
from oddsmill.train.step.optimizer import num_warmup_steps
from oddsmill.train.step.program import StepProgram, build_program
from oddsmill.train.weights.model_facts import model_facts
from oddsmill.train.weights.model_files import ModelFiles, check_ids, check_tokenizer, find_model, read_model_files
from oddsmill.train.weights.stored_weights import check_stored

_LONGEST_NAME_INSIDE = 256  # the files of a checkpoint, by Orbax, have up to 150 bytes


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to start.

    Attributes:
      config: its settings.
      data, eval_data: the rows that are trained on, and those whose eval split is measured.
      model: the model's config.json and the folder that it came from.
      program: the step.
      verified_shards: what the next start need not compare again.
    """

    config: TrainConfig
    data: Dataset
    eval_data: Dataset
    model: ModelFiles
    program: StepProgram
    verified_shards: VerifiedShards

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.config.run_dir)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch, empty ones that fill up its last step counted."""
        return rows_per_epoch(self.config, self.data)

    @property
    def identity(self) -> dict[str, Any]:
        """Flat JSON that a checkpoint must share to be gone on from."""
        return run_identity(self.config, self.data, self.model.decoder_config, self.program.num_steps)

    def initial_weights(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Makes the weights of step 0, every array already sharded: those that are trained, and the frozen."""
        return self.program.initial_weights(self.config.seed, self.model.folder if self.config.model.path else None)

    def evaluation(self) -> Evaluation | None:
        """Returns a function from weights to the metrics of the eval split; None where there is no such split."""
        if not self.eval_data.num_rows("eval"):
            return None
        batch_size = self.config.eval_batch_size or self.config.total_batch_size
        data, manifest = self.eval_data.folder, self.eval_data.manifest
        return Evaluation(self.program.objective, data=data, manifest=manifest, split="eval", batch_size=batch_size)

    def best(self) -> Best:
        """Returns the rules for the best evaluation, before the first one."""
        return make_best(
            metric_names(preference_loss(self.config)),
            self.config.metric_for_best_model,
            self.config.greater_is_better,
            patience=self.config.early_stopping_patience,
            threshold=self.config.early_stopping_threshold,
            data=self.eval_data.manifest.sha256,
        )


def prepare(config: TrainConfig) -> Run:
    """Reads and checks everything; allocates nothing on the devices and writes nothing.

    Raises:
      Refused: settings, data, model or devices do not fit each other, or other processes were started differently.
    """
    join_processes(config.distributed)
    check_place(config.run_dir, "run_dir", below=_LONGEST_NAME_INSIDE)
    check_name(config.data, "data")
    data = open_train_data(config.data)
    eval_data = open_eval_data(config, data)
    model_path = find_model(config.model)
    check_agreement(
        "oddsmill train run",
        config,
        apart=("data", "eval_data", "model"),
        facts=lambda: run_facts(config, data, eval_data, model_path),
    )
    # Made here for its refusal of a metric that no evaluation has; `Run.best` makes the one that is used.
    make_best(metric_names(preference_loss(config)), config.metric_for_best_model)
    if "wandb" in config.report_to:
        import_wandb()
    batch_rules(config.compat).check_processes(jax.process_count())
    verified = {} if config.verify_shards else read_verified_shards(RunFiles(config.run_dir).verified_shards)
    verified = verify_shards([data, eval_data], verified)
    model = read_model_files(model_path, disable_dropout=config.disable_dropout)
    check_tokenizer(data.manifest, model, data=config.data)
    check_ids(eval_data.manifest, model, data=eval_data.folder)
    program = build_run_program(config, data, eval_data, model, model_path=model_path)
    if config.model.path:
        check_stored(model_path, program.stored_weights, num_layers=model.decoder_config.num_hidden_layers)
    check_lengths(config, eval_data, program.num_steps)
    return Run(config=config, data=data, eval_data=eval_data, model=model, program=program, verified_shards=verified)


def run_facts(config: TrainConfig, data: Dataset, eval_data: Dataset, model_path: Path) -> dict[str, Any]:
    """Returns the content behind the paths of a run, which several processes may read from copies of their own."""
    return {
        "the manifest of --data": data.manifest.sha256,
        "the manifest of --eval_data": eval_data.manifest.sha256,
        "the weights to start from": "--model.path" if config.model.path else "random, by --model.config",
        **model_facts(model_path),
    }


def open_eval_data(config: TrainConfig, data: Dataset) -> Dataset:
    """Returns the dataset whose eval split is measured, which is that of the training where no other is given.

    Raises:
      Refused: another one has no eval split, or was made with another tokenizer.
    """
    if not config.eval_data:
        return data
    eval_data = open_dataset(config.eval_data)
    if not eval_data.num_rows("eval"):
        raise Refused(f"--eval_data={config.eval_data}: the eval split has no rows; preprocess with --eval_share=1")
    different = eval_data.manifest.tokenizer.differences(data.manifest.tokenizer)
    if different:
        raise Refused(
            f"--eval_data={config.eval_data}: was made with another tokenizer than {config.data}; they differ in "
            f"{', '.join(different)}"
        )
    return eval_data


def rows_per_epoch(config: TrainConfig, data: Dataset) -> int:
    """Returns the rows of an epoch, empty ones that fill up its last step counted."""
    rows = data.num_rows("train")
    return rows + batch_rules(config.compat).empty_rows(rows, config.rows_per_step)


def build_run_program(
    config: TrainConfig, data: Dataset, eval_data: Dataset, model: ModelFiles, *, model_path: Path
) -> StepProgram:
    """Returns the step of a run on these rows.

    Args:
      model_path: where the dtypes of frozen weights are read, where no setting says them.

    Raises:
      Refused: the warmup is all of the run, or as in `build_program`.
    """
    epoch = rows_per_epoch(config, data)
    num_steps = config.max_steps or math.ceil(config.num_train_epochs * epoch / config.rows_per_step)
    warmup = num_warmup_steps(config, num_steps)
    if warmup >= num_steps:
        name = "warmup_steps" if config.warmup_steps else "warmup_ratio"
        raise Refused(f"--{name}={getattr(config, name)}: the warmup is {warmup} of {num_steps} steps, all of the run")
    return build_program(
        config,
        model.decoder_config,
        model_path=model_path,
        max_pairs=data.manifest.splits["train"].max_pairs_per_row,
        row_lengths=sorted({data.manifest.row_length, eval_data.manifest.row_length}),
        num_steps=num_steps,
    )


def check_lengths(config: TrainConfig, eval_data: Dataset, num_steps: int) -> None:
    """Refuses settings that the rows or the length of the run leave without an effect.

    Raises:
      Refused: an evaluation without an eval split, or a profile after the last step.
    """
    for name in ("eval_steps", "eval_batch_size", "generate_during_eval"):  # all else that needs one needs eval_steps
        value = getattr(config, name)
        problem = f"{eval_data.folder} has no eval split; leave it out"
        require(not value or eval_data.num_rows("eval") > 0, name, value, problem)
    traced = config.profile_steps
    require(traced is None or traced[1] <= num_steps, "profile_steps", traced, f"the run has {num_steps} steps")


def run_identity(config: TrainConfig, data: Dataset, decoder_config: DecoderConfig, num_steps: int) -> dict[str, Any]:
    """Returns what makes a run this run and no other, as flat JSON: settings, rows, model, length."""
    settings = fixed_settings(config)
    for name in ("model", "max_steps", "num_train_epochs"):  # they stand below as what they come to
        del settings[name]
    identity = {
        **settings,
        "num_steps": num_steps,
        "data": data.manifest.sha256,
        "model": dataclasses.asdict(decoder_config),
        "starts_from": "trained weights" if config.model.path else "random weights",
    }
    return dict(json.loads(json.dumps(identity)))  # as it comes back from a checkpoint: tuples become lists


def describe_run(run: Run) -> str:
    """Returns what the run will do, for the console."""
    config, program, split = run.config, run.program, run.data.manifest.splits["train"]
    decoder, num_steps, loss = run.model.decoder_config, program.num_steps, program.objective.preference
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return (
        f"model {config.model.path or config.model.config}: {decoder.model_type}, "
        f"{num_parameters(decoder):,} parameters, "
        f"{'from its weights' if config.model.path else 'from random weights'}\n"
        f"{describe_frozen(config, program.abstract_state['params'], decoder)}"
        f"{describe_positions(run)}"
        f"data {config.data}: {split.pairs:,} pairs in {split.rows:,} rows of {run.data.manifest.row_length}\n"
        f"{num_steps:,} steps of {config.rows_per_step} rows on {program.mesh.size} device(s){processes}, "
        f"{config.optim}, learning rate {config.peak_learning_rate:g}, {config.lr_scheduler_type} "
        f"to {program.learning_rate(num_steps):g} after {num_warmup_steps(config, num_steps)} steps of warmup, "
        f"{loss.title} at beta {config.beta:g}, "
        f"NLL over {'prompt and answer' if loss.nll_scope == 'full' else 'the answer'}"
    )


def describe_frozen(config: TrainConfig, trained: Any, decoder: DecoderConfig) -> str:
    """Returns a line for the console; empty where all weights are trained."""
    if not config.lora and not config.frozen_parameters:
        return ""
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    share = f"{count:,} parameters are trained ({count / num_parameters(decoder):.2%})"
    if not config.lora:
        return f"frozen {', '.join(config.frozen_parameters)}: {share}\n"
    targets = sorted({path[-3] for path in flatten_dict(trained)})
    return f"LoRA of rank {config.lora.rank} on {', '.join(targets)}: {share}\n"


def describe_positions(run: Run) -> str:
    """Returns a note for the console where rows may hold positions that the model was not made for; else nothing."""
    made_for = run.model.hf_config.get("max_position_embeddings")
    longest = max(_longest_sequence(data.manifest) for data in (run.data, run.eval_data))
    if not made_for or longest <= made_for:
        return ""
    return (
        f"note: prompt and answer may reach {longest:,} tokens, and the model is made for {made_for:,} "
        "(max_position_embeddings of config.json); what lies beyond it has not learned. A lower --max_length of the "
        "preprocessing keeps within it\n"
    )


def _longest_sequence(manifest: Manifest) -> int:
    """Returns a bound on the tokens of a prompt with one of its answers: of the lengths, a power of two is known."""
    longest = 0
    for split in manifest.splits.values():
        lengths = {side: max(map(int, counts), default=0) for side, counts in split.length_histograms.items()}
        longest = max(longest, lengths["prompt"] + max(lengths["chosen"], lengths["rejected"]))
    return min(longest, int(manifest.settings["max_length"]))
