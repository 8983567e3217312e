"""What a run needs before its first step: data, model, mesh, optimizer, checked against each other."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, check_shards, file_sha256, read_manifest
from oddsmill.schemas.settings import fixed_settings
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import num_rows
from oddsmill.train.model.frozen import split_params
from oddsmill.train.model.hf_config import DecoderConfig, config_file, num_parameters, parse_config, read_config
from oddsmill.train.model.lora import is_adapter
from oddsmill.train.parallel.processes import join_processes
from oddsmill.train.step.assembly import Assembly, assemble
from oddsmill.train.step.batch_rules import batch_rules
from oddsmill.train.step.optimizer import num_warmup_steps
from oddsmill.train.weights.hub import find_model
from oddsmill.train.weights.huggingface import check_stored, load_params


@dataclass(frozen=True, kw_only=True)
class Run(Assembly):
    """A run that is ready to start.

    Attributes:
      summary: what will be done, for the console.
      hf_config: config.json as it came in.
      model_folder: where it came from, with or without weights and a tokenizer.
      rows_per_epoch: empty ones that fill up its last step counted.
      eval_data, eval_manifest: the folder whose eval split is measured.
      identity: flat JSON that a checkpoint must share to be gone on from.
      initial_weights: makes the weights of step 0, every array already sharded: those that are trained, and the frozen.
      is_writer: this process writes files and the console.
    """

    summary: str
    manifest: Manifest
    hf_config: dict[str, Any]
    model_folder: Path
    rows_per_epoch: int
    eval_data: str
    eval_manifest: Manifest
    identity: dict[str, Any]
    initial_weights: Callable[[], tuple[Any, Any]]
    is_writer: bool


def prepare(config: TrainConfig) -> Run:
    """Reads and checks everything, allocates nothing on the devices yet.

    Raises:
      Refused: see the checks.
    """
    join_processes(config.distributed)
    is_writer = jax.process_index() == 0
    manifest = read_train_split(config.data)
    eval_data, eval_manifest = config.eval_data or config.data, manifest
    if config.eval_data:
        eval_manifest = read_manifest(config.eval_data)
        check_shards(config.eval_data, eval_manifest)
        if not num_rows(eval_manifest, "eval"):
            raise Refused(f"--eval_data={config.eval_data}: the eval split has no rows; preprocess with --eval_share=1")
        if eval_manifest.tokenizer != manifest.tokenizer:
            raise Refused(f"--eval_data={config.eval_data}: was made with another tokenizer than {config.data}")
    if config.model.path:
        model_path = find_model(config.model.path, config.model.revision)
    else:
        assert config.model.config is not None  # one of the two, by ModelConfig
        model_path = Path(config.model.config)
    hf_config, decoder_config = read_decoder(config, model_path, say=print if is_writer else lambda line: None)
    check_tokenizer(manifest, decoder_config, model_path, data=config.data)
    rules = batch_rules(config.compat)
    rules.check_processes(jax.process_count())
    epoch = manifest.splits["train"].rows
    rows_per_epoch = epoch + rules.empty_rows(epoch, config.rows_per_step)
    num_steps = config.max_steps or math.ceil(config.num_train_epochs * rows_per_epoch / config.rows_per_step)
    warmup = num_warmup_steps(config, num_steps)
    if warmup >= num_steps:
        name = "warmup_steps" if config.warmup_steps else "warmup_ratio"
        raise Refused(f"--{name}={getattr(config, name)}: the warmup is {warmup} of {num_steps} steps, all of the run")
    assembly = assemble(
        config,
        decoder_config,
        model_path=model_path,
        max_pairs=manifest.splits["train"].max_pairs_per_row,
        row_lengths=sorted({manifest.row_length, eval_manifest.row_length}),
        num_steps=num_steps,
    )
    if config.model.path:
        check_stored(model_path, of_the_model(assembly), num_layers=decoder_config.num_hidden_layers)
    settings = fixed_settings(config)
    for name in ("model", "max_steps", "num_train_epochs"):  # the identity has what they come to
        del settings[name]
    summary = (
        f"model {config.model.path or model_path}: {decoder_config.model_type}, "
        f"{num_parameters(decoder_config):,} parameters, "
        f"{'from its weights' if config.model.path else 'from random weights'}\n"
        f"{describe_frozen(config, assembly.abstract_state['params'], decoder_config)}"
        f"data {config.data}: {manifest.splits['train'].pairs:,} pairs in {epoch:,} rows of {manifest.row_length}\n"
        f"{num_steps:,} steps of {config.rows_per_step} rows on {assembly.mesh.size} device(s)"
        f"{f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''}, "
        f"{config.optim}, learning rate {config.peak_learning_rate:g}, {config.lr_scheduler_type} "
        f"to {assembly.learning_rate(num_steps):g} after {warmup} steps of warmup, "
        f"beta {config.beta:g}, NLL over {'prompt and answer' if config.nll_scope == 'full' else 'the answer'}"
    )
    return Run(
        **vars(assembly),
        summary=summary,
        manifest=manifest,
        hf_config=hf_config,
        model_folder=model_path if model_path.is_dir() else model_path.parent,
        rows_per_epoch=rows_per_epoch,
        eval_data=eval_data,
        eval_manifest=eval_manifest,
        # Through JSON, as it comes back from a checkpoint: tuples become lists.
        identity=json.loads(
            json.dumps(
                {
                    **settings,
                    "num_steps": num_steps,
                    "data": manifest.sha256,
                    "model": dataclasses.asdict(decoder_config),
                    "starts_from": "trained weights" if config.model.path else "random weights",
                }
            )
        ),
        initial_weights=lambda: make_weights(config, assembly, model_path),
        is_writer=is_writer,
    )


def read_train_split(data: str) -> Manifest:
    """The manifest of a dataset with rows to train on, its shards checked.

    Raises:
      Refused: a shard is missing or altered, or there are no rows.
    """
    manifest = read_manifest(data)
    check_shards(data, manifest)
    if not manifest.splits["train"].rows:
        raise Refused(f"{data}: the train split has no rows")
    return manifest


def read_decoder(
    config: TrainConfig, model_path: Path, *, say: Callable[[str], Any]
) -> tuple[dict[str, Any], DecoderConfig]:
    """config.json as it is, and as it is trained: without its dropout where that is disabled.

    Args:
      model_path: the file, or the folder that holds it.

    Raises:
      Refused: there is none, or it is not supported.
    """
    hf_config = read_config(model_path)
    decoder_config, unused = parse_config(hf_config, path=str(config_file(model_path)))
    if unused:
        say(f"{config_file(model_path)}: fields that are not known here and not used: {', '.join(unused)}")
    if (decoder_config.attention_dropout or decoder_config.resid_pdrop) and config.disable_dropout:
        say(f"{model_path}: its dropout is not applied; --disable_dropout=false applies it")
        decoder_config = dataclasses.replace(decoder_config, attention_dropout=0.0, resid_pdrop=0.0)
    return hf_config, decoder_config


def of_the_model(assembly: Assembly) -> dict[str, Any]:
    """Shapes and places of the weights that a model folder holds: all but adapters."""
    weights = flatten_dict(assembly.abstract_model)
    return unflatten_dict({path: leaf for path, leaf in weights.items() if not is_adapter(path)})


def make_weights(config: TrainConfig, assembly: Assembly, model_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of step 0, every array already sharded: those that are trained, and the frozen."""
    frozen, random_weights = assembly.frozen_paths, assembly.random_weights
    key = jax.random.key(config.seed)
    if config.model.path is None:
        return split_params(jax.jit(random_weights, out_shardings=assembly.model_shardings)(key), frozen)
    shapes = of_the_model(assembly)
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    stored = load_params(model_path, shapes, places, num_layers=assembly.decoder_config.num_hidden_layers)
    if config.lora is None:
        return split_params(stored, frozen)
    places = split_params(assembly.model_shardings, frozen)[0]
    return jax.jit(lambda key: split_params(random_weights(key), frozen)[0], out_shardings=places)(key), stored


def describe_frozen(config: TrainConfig, trained: Any, decoder: DecoderConfig) -> str:
    """A line for the console; empty where all is trained."""
    if not config.lora and not config.frozen_parameters:
        return ""
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    share = f"{count:,} parameters are trained ({count / num_parameters(decoder):.2%})"
    if not config.lora:
        return f"frozen {', '.join(config.frozen_parameters)}: {share}\n"
    targets = sorted({path[-3] for path in flatten_dict(trained)})
    return f"LoRA of rank {config.lora.rank} on {', '.join(targets)}: {share}\n"


def check_tokenizer(manifest: Manifest, decoder: DecoderConfig, model_path: Path, *, data: str) -> None:
    """Refuses rows whose ids mean something else to the model.

    Raises:
      Refused: the vocabulary is larger than the model's, or the model's folder has another tokenizer.json.
    """
    if manifest.tokenizer.vocab_size > decoder.vocab_size:
        raise Refused(
            f"{data} was made with a vocabulary of {manifest.tokenizer.vocab_size}, the model has "
            f"{decoder.vocab_size} (vocab_size in {model_path}): preprocess with the model's own tokenizer"
        )
    folder = model_path if model_path.is_dir() else model_path.parent
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file() and file_sha256(tokenizer) != manifest.tokenizer.sha256["tokenizer.json"]:
        raise Refused(
            f"{data} was made with another tokenizer than {tokenizer}: run the preprocessing with --tokenizer={folder}"
        )
