"""The compiled step of a run and what defines it: decoder, mesh, optimizer, objective, and where every array lies.

Building it takes no array and no device of this machine: `oddsmill train plan` builds the same for devices elsewhere.
"""

from collections.abc import Callable, Sequence
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

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention.choice import choose_mechanism
from oddsmill.train.attention.mechanism import Mechanism, Workload
from oddsmill.train.config.train_config import RunSettings
from oddsmill.train.loss.choice import preference_loss
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.frozen import frozen_paths, split_params
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.model.lora import add_adapters, is_adapter
from oddsmill.train.model.names import WeightPath
from oddsmill.train.parallel.sharding import batch_sharding, make_mesh, num_row_shards, param_shardings, state_shardings
from oddsmill.train.step.batch_rules import BatchRules, batch_rules
from oddsmill.train.step.guard import Step, guarded
from oddsmill.train.step.optimizer import learning_rate_schedule, make_optimizer
from oddsmill.train.step.step import Objective, State, train_step
from oddsmill.train.weights.huggingface import load_params
from oddsmill.train.weights.stored_weights import stored_dtypes


@dataclass(frozen=True, kw_only=True)
class StepProgram:
    """The parts of a step; the state and the weights appear as shapes only.

    Attributes:
      num_steps: optimizer steps of the whole run.
      batch_rules: how rows become steps and micro-batches.
      micro_batches, max_skipped_steps: as in RunSettings.
      abstract_model: every weight, adapters and frozen ones included, as shapes, dtypes and shardings.
      frozen_paths: the weights that are not trained.
      abstract_state: the training state likewise.
      attn_mechanism: computes the attention of whole rows.
      seed: of the run.
      random_weights: a key -> every weight, for `jax.jit`.
      first_state: trained weights -> the state of step 0, for `jax.jit`.
      generator: the decoder's definition for generation, where a batch is not spread over the mesh.
    """

    decoder_config: DecoderConfig
    mesh: Mesh
    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    num_steps: int
    batch_rules: BatchRules
    micro_batches: int
    max_skipped_steps: int
    abstract_model: dict[str, Any]
    frozen_paths: set[WeightPath]
    abstract_state: State
    attn_mechanism: Mechanism
    seed: int
    random_weights: Callable[[jax.Array], dict[str, Any]]
    first_state: Callable[[Any], State]
    generator: nnx.GraphDef

    @property
    def has_frozen_weights(self) -> bool:
        """Some weights are no part of the state."""
        return bool(self.frozen_paths)

    @property
    def stored_weights(self) -> dict[str, Any]:
        """Shapes, dtypes and shardings of the weights that a model folder holds: all but adapters."""
        weights = flatten_dict(self.abstract_model)
        return unflatten_dict({path: leaf for path, leaf in weights.items() if not is_adapter(path)})

    def jitted_step(self) -> Step:
        """Returns the step of a run: (state, batch, frozen) -> (state, metrics); it takes the state over."""
        one_step = partial(
            train_step,
            objective=self.objective,
            optimizer=self.optimizer,
            micro_batches=self.micro_batches,
            seed=self.seed,
            split=self.batch_rules.split_batch,
        )
        return jax.jit(
            guarded(one_step, max_skipped_steps=self.max_skipped_steps),
            donate_argnums=0,
            out_shardings=(shardings_of(self.abstract_state), None),
        )

    def initial_state(self, params: Any) -> State:
        """Returns the state of step 0 of the trained weights, which it takes over."""
        return jax.jit(self.first_state, out_shardings=shardings_of(self.abstract_state), donate_argnums=0)(params)

    def initial_weights(self, seed: int, model_folder: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Makes the weights of step 0, every array already sharded: those that are trained, and the frozen.

        Args:
          model_folder: of the weights that the run starts from; None: all are random.

        Raises:
          Refused: the folder's weights are not those of the model.
        """
        key, model_shardings = jax.random.key(seed), shardings_of(self.abstract_model)
        if model_folder is None:
            random = jax.jit(self.random_weights, out_shardings=model_shardings)(key)
            return split_params(random, self.frozen_paths)
        shapes = self.stored_weights
        layers = self.decoder_config.num_hidden_layers
        stored = load_params(model_folder, shapes, shardings_of(shapes), num_layers=layers)
        if not any(is_adapter(path) for path in flatten_dict(self.abstract_model)):
            return split_params(stored, self.frozen_paths)
        adapter_shardings = split_params(model_shardings, self.frozen_paths)[0]
        adapters = jax.jit(
            lambda key: split_params(self.random_weights(key), self.frozen_paths)[0], out_shardings=adapter_shardings
        )
        return adapters(key), stored


def shardings_of(tree: Any) -> Any:
    """Returns the sharding of every leaf of a tree of abstract arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def build_program(
    config: RunSettings,
    decoder_config: DecoderConfig,
    *,
    model_path: Path,
    max_pairs: int,
    row_lengths: Sequence[int],
    num_steps: int,
    devices: Sequence[Any] | None = None,
) -> StepProgram:
    """Returns the step of these settings.

    Args:
      model_path: the model's folder, which says in what dtype frozen weights are stored where no setting does.
      max_pairs: the most pairs a row holds.
      row_lengths: the lengths of all rows, in slots.
      devices: of the mesh; None: all that JAX sees.

    Raises:
      Refused: the mesh does not fit the devices, the batch or the weights; the attention's mechanism the devices, the
        model or the rows; or a pattern matches no weight.
    """
    mesh = make_mesh(config.mesh, devices)
    for name in ("total_batch_size", "eval_batch_size"):
        if (getattr(config, name) or 0) % num_row_shards(mesh):
            raise Refused(
                f"--{name}={getattr(config, name)}: must be a multiple of the {num_row_shards(mesh)} devices "
                "that rows are spread over"
            )
    attn_mechanism = choose_mechanism(config.attn_mechanism, _workload(config, decoder_config, mesh, row_lengths))
    param_dtype, compute_dtype = jnp.dtype(config.param_dtype), jnp.dtype(config.compute_dtype)

    def decoder(rngs: nnx.Rngs, dtype: jnp.dtype = param_dtype, **options: Any) -> Decoder:
        plain = Decoder(decoder_config, rngs=rngs, param_dtype=dtype, compute_dtype=compute_dtype, **options)
        return add_adapters(plain, config.lora, param_dtype=dtype, rngs=rngs) if config.lora else plain

    trained = partial(
        decoder,
        attn_mechanism=attn_mechanism,
        remat=config.gradient_checkpointing,
        constrain=lambda x: jax.lax.with_sharding_constraint(x, batch_sharding(mesh)),
    )
    definition, abstract_weights = nnx.split(nnx.eval_shape(lambda: trained(nnx.Rngs(0))))
    model = nnx.to_pure_dict(abstract_weights)
    frozen, dtypes = _frozen_weights(config, model, model_path, num_layers=decoder_config.num_hidden_layers)
    model = unflatten_dict(
        {path: leaf.update(dtype=dtypes.get(path, leaf.dtype)) for path, leaf in flatten_dict(model).items()}
    )
    model_shardings = param_shardings(model, mesh)
    optimizer = make_optimizer(config, num_steps)

    def first_state(params: Any) -> State:
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0), "skipped": jnp.int32(0)}

    def random_weights(key: jax.Array) -> dict[str, Any]:
        # Drawn in float32, so that a seed gives the same weights in any dtype, but for their rounding.
        weights = flatten_dict(nnx.to_pure_dict(nnx.state(decoder(nnx.Rngs(params=key), jnp.dtype("float32")))))
        return unflatten_dict({path: leaf.astype(dtypes.get(path, param_dtype)) for path, leaf in weights.items()})

    state = jax.eval_shape(first_state, split_params(model, frozen)[0])
    return StepProgram(
        decoder_config=decoder_config,
        mesh=mesh,
        objective=_objective(config, decoder_config, definition, mesh, max_pairs),
        optimizer=optimizer,
        learning_rate=learning_rate_schedule(config, num_steps),
        num_steps=num_steps,
        batch_rules=batch_rules(config.compat),
        micro_batches=config.gradient_accumulation_steps,
        max_skipped_steps=config.max_skipped_steps,
        abstract_model=_abstract(model, model_shardings),
        frozen_paths=frozen,
        abstract_state=_abstract(state, state_shardings(state, split_params(model_shardings, frozen)[0], mesh)),
        attn_mechanism=attn_mechanism,
        seed=config.seed,
        random_weights=random_weights,
        first_state=first_state,
        generator=nnx.split(nnx.eval_shape(lambda: decoder(nnx.Rngs(0))))[0],
    )


def check_row_length(
    program: StepProgram, config: RunSettings, decoder_config: DecoderConfig, row_length: int, *, data: str
) -> None:
    """Refuses rows that the mechanism of a run, chosen for the rows of that run, cannot compute.

    Raises:
      Refused: a sliding window that the run's own rows did not reach is shorter than these rows, for example.
    """
    mechanism = program.attn_mechanism
    problem = mechanism.limits(_workload(config, decoder_config, program.mesh, [row_length]))
    if problem is not None:
        raise Refused(
            f"{data}: {mechanism.name}, the attention of the run, cannot take its rows of {row_length}: {problem}"
        )


def _workload(config: RunSettings, decoder_config: DecoderConfig, mesh: Mesh, row_lengths: Sequence[int]) -> Workload:
    device = mesh.devices.flat[0]
    return Workload(
        platform=device.platform,
        compute_capability=getattr(device, "compute_capability", None),
        dtype=config.compute_dtype,
        row_lengths=tuple(row_lengths),
        head_dim=decoder_config.head_dim,
        windows=decoder_config.windows,
        softcap=decoder_config.attn_logit_softcapping,
        dropout=decoder_config.attention_dropout,
    )


def _objective(
    config: RunSettings, decoder_config: DecoderConfig, definition: nnx.GraphDef, mesh: Mesh, max_pairs: int
) -> Objective:
    has_dropout = bool(decoder_config.attention_dropout or decoder_config.resid_pdrop)
    return Objective(
        definition=definition,
        mesh=mesh,
        preference=preference_loss(config),
        max_pairs=max_pairs,
        dropout_seed=config.seed if has_dropout or (config.lora and config.lora.dropout) else None,
    )


def _frozen_weights(
    config: RunSettings, model: dict[str, Any], model_path: Path, *, num_layers: int
) -> tuple[set[WeightPath], dict[WeightPath, Any]]:
    """Returns the weights that are not trained, and the dtypes of those that are not kept in param_dtype."""
    if config.lora:
        frozen = {path for path in flatten_dict(model) if not is_adapter(path)}
    else:
        frozen = frozen_paths(config.frozen_parameters, model, num_layers=num_layers)
    if config.frozen_dtype:
        return frozen, dict.fromkeys(frozen, jnp.dtype(config.frozen_dtype))
    if config.model.path and frozen:
        return frozen, stored_dtypes(model_path, frozen, num_layers=num_layers)
    return frozen, {}


def _abstract(tree: Any, shardings: Any) -> Any:
    """Returns shapes and dtypes with the shardings of another tree."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )
