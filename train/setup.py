"""What a run needs before its first step: data, model, mesh, optimizer, checked against each other."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from schemas.errors import Refused
from schemas.manifest import Manifest, check_shards, file_sha256, read_manifest
from train.attention_choice import choose_mechanism
from train.checkpoint import abstract
from train.config import FREE_TO_CHANGE, TrainConfig
from train.data import fill_up, num_rows
from train.distributed import join_processes
from train.frozen import WeightPath, frozen_paths, split_params, stored_dtypes
from train.hf_config import DecoderConfig, config_file, num_parameters, parse_config, read_config
from train.hub import find_model
from train.lora import add_adapters, is_adapter
from train.model import Decoder
from train.optimizer import learning_rate_schedule, make_optimizer, num_warmup_steps
from train.sharding import batch_sharding, make_mesh, num_row_shards, param_shardings, state_shardings
from train.step import Objective, State
from train.weights import check_stored, load_params


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to start.

    Attributes:
      summary: what will be done, for the console.
      hf_config: config.json as it came in.
      model_folder: where it came from, with or without weights and a tokenizer.
      num_steps: optimizer steps of the whole run.
      rows_per_epoch: empty ones that fill up its last step counted.
      eval_data, eval_manifest: the folder whose eval split is measured.
      identity: flat JSON that a checkpoint must share to be gone on from.
      initial_weights: makes the weights of step 0, every array already sharded: those that are trained, and the frozen.
      initial_state: the state of step 0 of the trained weights, which it takes over.
      has_frozen_weights: some weights are no part of the state.
      generator: the decoder's definition for generation, where a batch is not spread over the mesh.
      is_writer: this process writes files and the console.
    """

    summary: str
    manifest: Manifest
    hf_config: dict[str, Any]
    model_folder: Path
    decoder_config: DecoderConfig
    mesh: Mesh
    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    num_steps: int
    rows_per_epoch: int
    eval_data: str
    eval_manifest: Manifest
    identity: dict[str, Any]
    abstract_state: State
    state_shardings: Any
    initial_weights: Callable[[], tuple[Any, Any]]
    initial_state: Callable[[Any], State]
    has_frozen_weights: bool
    generator: nnx.GraphDef
    is_writer: bool


def prepare(config: TrainConfig) -> Run:
    """Reads and checks everything, allocates nothing on the devices yet.

    Raises:
      Refused: see the checks.
    """
    join_processes(config.distributed)
    is_writer = jax.process_index() == 0
    manifest = read_manifest(config.data)
    check_shards(config.data, manifest)
    if not manifest.splits["train"].rows:
        raise Refused(f"{config.data}: the train split has no rows")
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
    hf_config = read_config(model_path)
    decoder_config, unused = parse_config(hf_config, path=str(config_file(model_path)))
    if unused and is_writer:
        print(f"{config_file(model_path)}: fields that are not known here and not used: {', '.join(unused)}")
    has_dropout = bool(decoder_config.attention_dropout or decoder_config.resid_pdrop)
    if has_dropout and config.disable_dropout:
        if is_writer:
            print(f"{model_path}: its dropout is not applied; --disable_dropout=false applies it")
        decoder_config, has_dropout = dataclasses.replace(decoder_config, attention_dropout=0.0, resid_pdrop=0.0), False
    check_tokenizer(manifest, decoder_config, model_path, data=config.data)

    mesh = make_mesh(config.mesh)
    device = mesh.devices.flat[0]
    attn_mechanism = choose_mechanism(
        config.attn_mechanism,
        decoder_config,
        platform=device.platform,
        compute_capability=getattr(device, "compute_capability", None),
        dtype=config.compute_dtype,
        row_lengths=sorted({manifest.row_length, eval_manifest.row_length}),
    )
    num_shares = num_row_shards(mesh)
    for name in ("total_batch_size", "eval_batch_size"):
        if (getattr(config, name) or 0) % num_shares:
            raise Refused(
                f"--{name}={getattr(config, name)}: must be a multiple of the {num_shares} devices "
                "that rows are spread over"
            )
    epoch = manifest.splits["train"].rows
    if config.compat == "trl" and jax.process_count() > 1:
        raise Refused("--compat=trl: takes the steps of one process; leave it out, or start one process")
    rows_per_epoch = epoch + fill_up(epoch, config)
    num_steps = config.max_steps or math.ceil(config.num_train_epochs * rows_per_epoch / config.rows_per_step)
    warmup = num_warmup_steps(config, num_steps)
    if warmup >= num_steps:
        name = "warmup_steps" if config.warmup_steps else "warmup_ratio"
        raise Refused(f"--{name}={getattr(config, name)}: the warmup is {warmup} of {num_steps} steps, all of the run")

    rows = batch_sharding(mesh)

    layers = decoder_config.num_hidden_layers
    param_dtype = jnp.dtype(config.param_dtype)

    def decoder(rngs: nnx.Rngs, **options: Any) -> Decoder:
        compute_dtype = jnp.dtype(config.compute_dtype)
        plain = Decoder(decoder_config, rngs=rngs, param_dtype=param_dtype, compute_dtype=compute_dtype, **options)
        return add_adapters(plain, config.lora, param_dtype=param_dtype, rngs=rngs) if config.lora else plain

    trained = partial(
        decoder,
        attn_mechanism=attn_mechanism,
        remat=config.gradient_checkpointing,
        constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
    )
    definition, abstract_weights = nnx.split(nnx.eval_shape(lambda: trained(nnx.Rngs(0))))
    whole_model = nnx.to_pure_dict(abstract_weights)
    frozen = (
        {path for path in flatten_dict(whole_model) if not is_adapter(path)}
        if config.lora
        else frozen_paths(config.frozen_parameters, whole_model, num_layers=layers)
    )
    dtypes: dict[WeightPath, Any] = {}
    if config.frozen_dtype:
        dtypes = dict.fromkeys(frozen, jnp.dtype(config.frozen_dtype))
    elif config.model.path and frozen:
        dtypes = stored_dtypes(model_path, frozen, num_layers=layers)
    whole_model = unflatten_dict(
        {path: leaf.update(dtype=dtypes.get(path, leaf.dtype)) for path, leaf in flatten_dict(whole_model).items()}
    )
    of_the_model = unflatten_dict(
        {path: leaf for path, leaf in flatten_dict(whole_model).items() if not is_adapter(path)}
    )
    if config.model.path:
        check_stored(model_path, of_the_model, num_layers=layers)
    abstract_params, _ = split_params(whole_model, frozen)
    model_on_mesh = param_shardings(whole_model, mesh)
    params_on_mesh, _ = split_params(model_on_mesh, frozen)
    optimizer, learning_rate = make_optimizer(config, num_steps), learning_rate_schedule(config, num_steps)

    def with_optimizer(params: Any) -> State:
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0), "skipped": jnp.int32(0)}

    state_shapes = jax.eval_shape(with_optimizer, abstract_params)
    shardings = state_shardings(state_shapes, params_on_mesh, mesh)

    def stored_weights() -> dict[str, Any]:
        places = flatten_dict(model_on_mesh)
        places = unflatten_dict({path: places[path] for path in flatten_dict(of_the_model)})
        return load_params(model_path, of_the_model, places, num_layers=layers)

    def random_weights(key: jax.Array) -> dict[str, Any]:
        weights = flatten_dict(nnx.to_pure_dict(nnx.state(decoder(nnx.Rngs(params=key)))))
        return unflatten_dict({path: leaf.astype(dtypes.get(path, leaf.dtype)) for path, leaf in weights.items()})

    def initial_weights() -> tuple[Any, Any]:
        key = jax.random.key(config.seed)
        if config.lora:
            adapters = jax.jit(lambda key: split_params(random_weights(key), frozen)[0], out_shardings=params_on_mesh)
            return adapters(key), stored_weights()
        if config.model.path:
            return split_params(stored_weights(), frozen)
        return split_params(jax.jit(random_weights, out_shardings=model_on_mesh)(key), frozen)

    def initial_state(params: Any) -> State:
        return jax.jit(with_optimizer, out_shardings=shardings, donate_argnums=0)(params)

    objective = Objective(
        definition=definition,
        mesh=mesh,
        beta=config.beta,
        nll_scope=config.nll_scope,
        max_pairs=manifest.splits["train"].max_pairs_per_row,
        compat=config.compat,
        dropout_seed=config.seed if has_dropout or (config.lora and config.lora.dropout) else None,
    )
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in FREE_TO_CHANGE | {"model", "max_steps", "num_train_epochs"}
    }
    if config.lora:
        settings["lora"] = {name: value for name, value in settings["lora"].items() if name != "export"}
    summary = (
        f"model {config.model.path or model_path}: {decoder_config.model_type}, "
        f"{num_parameters(decoder_config):,} parameters, "
        f"{'from its weights' if config.model.path else 'from random weights'}\n"
        f"{describe_frozen(config, abstract_params, decoder_config)}"
        f"data {config.data}: {manifest.splits['train'].pairs:,} pairs in {epoch:,} rows of {manifest.row_length}\n"
        f"{num_steps:,} steps of {config.rows_per_step} rows on {mesh.size} device(s)"
        f"{f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''}, "
        f"{config.optim}, learning rate {config.peak_learning_rate:g}, {config.lr_scheduler_type} "
        f"to {learning_rate(num_steps):g} after {warmup} steps of warmup, "
        f"beta {config.beta:g}, NLL over {'prompt and answer' if config.nll_scope == 'full' else 'the answer'}"
    )
    return Run(
        summary=summary,
        manifest=manifest,
        hf_config=hf_config,
        model_folder=model_path if model_path.is_dir() else model_path.parent,
        decoder_config=decoder_config,
        mesh=mesh,
        objective=objective,
        optimizer=optimizer,
        learning_rate=learning_rate,
        num_steps=num_steps,
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
        abstract_state=abstract(state_shapes, shardings),
        state_shardings=shardings,
        initial_weights=initial_weights,
        initial_state=initial_state,
        has_frozen_weights=bool(frozen),
        generator=nnx.split(nnx.eval_shape(lambda: decoder(nnx.Rngs(0))))[0],
        is_writer=is_writer,
    )


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
