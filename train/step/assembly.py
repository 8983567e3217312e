"""What defines the compiled step of a run: decoder, mesh, optimizer, objective, and where every array lies.

It takes no array and no device of this machine: `oddsmill train plan` assembles the same for devices elsewhere.
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
from oddsmill.train.checkpoint.checkpoints import abstract
from oddsmill.train.config.train_config import TrainConfig
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
from oddsmill.train.weights.huggingface import stored_dtypes


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The parts of a step.

    Attributes:
      batch_rules: how rows become steps and micro-batches.
      micro_batches, max_skipped_steps: as in TrainConfig.
      num_steps: optimizer steps of the whole run.
      abstract_model: every weight, adapters and frozen ones included, as shapes, dtypes and shardings.
      frozen_paths: the weights that are not trained.
      abstract_state: the training state likewise, and its shardings alone.
      attn_mechanism: computes the attention of whole rows.
      random_weights: a key -> every weight, for `jax.jit`.
      with_optimizer: trained weights -> the state of step 0, for `jax.jit`.
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
    state_shardings: Any
    attn_mechanism: Mechanism
    random_weights: Callable[[jax.Array], dict[str, Any]]
    with_optimizer: Callable[[Any], State]
    generator: nnx.GraphDef

    @property
    def has_frozen_weights(self) -> bool:
        """Some weights are no part of the state."""
        return bool(self.frozen_paths)

    @property
    def model_shardings(self) -> dict[str, Any]:
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_model)

    def jitted_step(self) -> Step:
        """The step of a run: (state, batch, frozen) -> (state, metrics); it takes the state over."""
        one_step = partial(
            train_step,
            objective=self.objective,
            optimizer=self.optimizer,
            micro_batches=self.micro_batches,
            split=self.batch_rules.split_batch,
        )
        return jax.jit(
            guarded(one_step, max_skipped_steps=self.max_skipped_steps),
            donate_argnums=0,
            out_shardings=(self.state_shardings, None),
        )

    def initial_state(self, params: Any) -> State:
        """The state of step 0 of the trained weights, which it takes over."""
        return jax.jit(self.with_optimizer, out_shardings=self.state_shardings, donate_argnums=0)(params)


def assemble(
    config: TrainConfig,
    decoder_config: DecoderConfig,
    *,
    model_path: Path,
    max_pairs: int,
    row_lengths: Sequence[int],
    num_steps: int,
    devices: Sequence[Any] | None = None,
) -> Assembly:
    """The step of these settings.

    Args:
      model_path: the model's folder, which says what frozen weights are stored in where no setting does.
      max_pairs: the most pairs a row holds.
      row_lengths: of all rows, in slots.
      devices: of the mesh; None: all that JAX sees.

    Raises:
      Refused: the mesh does not fit the devices, the batch or the weights; the attention's mechanism the devices, the
        model or the rows; or a pattern matches no weight.
    """
    mesh = make_mesh(config.mesh, devices)
    num_shares = num_row_shards(mesh)
    for name in ("total_batch_size", "eval_batch_size"):
        if (getattr(config, name) or 0) % num_shares:
            raise Refused(
                f"--{name}={getattr(config, name)}: must be a multiple of the {num_shares} devices "
                "that rows are spread over"
            )
    device = mesh.devices.flat[0]
    workload = Workload(
        platform=device.platform,
        compute_capability=getattr(device, "compute_capability", None),
        dtype=config.compute_dtype,
        row_lengths=tuple(row_lengths),
        head_dim=decoder_config.head_dim,
        windows=decoder_config.windows,
        softcap=decoder_config.attn_logit_softcapping,
        dropout=decoder_config.attention_dropout,
    )
    attn_mechanism = choose_mechanism(config.attn_mechanism, workload)
    rows, layers = batch_sharding(mesh), decoder_config.num_hidden_layers
    param_dtype, compute_dtype = jnp.dtype(config.param_dtype), jnp.dtype(config.compute_dtype)

    def decoder(rngs: nnx.Rngs, **options: Any) -> Decoder:
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
    model_on_mesh = param_shardings(whole_model, mesh)
    optimizer = make_optimizer(config, num_steps)

    def with_optimizer(params: Any) -> State:
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0), "skipped": jnp.int32(0)}

    def random_weights(key: jax.Array) -> dict[str, Any]:
        weights = flatten_dict(nnx.to_pure_dict(nnx.state(decoder(nnx.Rngs(params=key)))))
        return unflatten_dict({path: leaf.astype(dtypes.get(path, leaf.dtype)) for path, leaf in weights.items()})

    state_shapes = jax.eval_shape(with_optimizer, split_params(whole_model, frozen)[0])
    shardings = state_shardings(state_shapes, split_params(model_on_mesh, frozen)[0], mesh)
    has_dropout = bool(decoder_config.attention_dropout or decoder_config.resid_pdrop)
    objective = Objective(
        definition=definition,
        mesh=mesh,
        preference=preference_loss(config),
        max_pairs=max_pairs,
        dropout_seed=config.seed if has_dropout or (config.lora and config.lora.dropout) else None,
    )
    return Assembly(
        decoder_config=decoder_config,
        mesh=mesh,
        objective=objective,
        optimizer=optimizer,
        learning_rate=learning_rate_schedule(config, num_steps),
        num_steps=num_steps,
        batch_rules=batch_rules(config.compat),
        micro_batches=config.gradient_accumulation_steps,
        max_skipped_steps=config.max_skipped_steps,
        abstract_model=abstract(whole_model, model_on_mesh),
        frozen_paths=frozen,
        abstract_state=abstract(state_shapes, shardings),
        state_shardings=shardings,
        attn_mechanism=attn_mechanism,
        random_weights=random_weights,
        with_optimizer=with_optimizer,
        generator=nnx.split(nnx.eval_shape(lambda: decoder(nnx.Rngs(0))))[0],
    )
