"""Optimizer steps on fake devices, by one process or as one of two: what tests/train/test_exactness.py runs.

    python tests/train/one_step.py FOLDER OUT DTYPE PROCESS COUNT PORT VARIANT …

A variant is `micro_batches,data,fsdp,tensor[,mechanism of attention]`; a mesh smaller than all devices takes the first
ones. Takes two steps from one random start on the rows of FOLDER, and writes the metrics and the state after each, as
{OUT}-{VARIANT}.npz.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from oddsmill.schemas.manifest import read_manifest
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.loader import DEVICE_ARRAYS, train_batches
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.model.decoder import Decoder
from oddsmill.train.parallel.processes import join_processes
from oddsmill.train.parallel.sharding import batch_sharding, make_mesh, param_shardings, put_on_mesh, row_share
from oddsmill.train.parallel.sharding import state_shardings as shardings_of
from oddsmill.train.step.optimizer import make_optimizer
from oddsmill.train.step.step import Objective, train_step
from tests.train.decoders import decoder_config, mechanism_of

ROWS, STEPS = 64, 2


def state_after(
    folder: str, dtype: jnp.dtype, micro_batches: int, axes: MeshConfig, mechanism: str
) -> dict[str, np.ndarray]:
    size = axes.data * axes.fsdp * axes.tensor
    mesh = make_mesh(axes, None if size == jax.device_count() else jax.devices()[:size])
    # The decay and the epsilon are such that no weight's update is decided by the rounding of a gradient near zero.
    config = TrainConfig(
        data=folder, run_dir="", model=ModelConfig(config="-"), learning_rate=1e-2, weight_decay=0.1, adam_epsilon=1e-4
    )
    optimizer = make_optimizer(config, 10)
    rows = batch_sharding(mesh)
    decoder = Decoder(
        decoder_config(),
        rngs=nnx.Rngs(0),
        param_dtype=dtype,
        compute_dtype=dtype,
        attn_mechanism=mechanism_of(mechanism, block=8),  # rows are short
        remat=True,
        constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
    )
    definition, weights = nnx.split(decoder)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(weights))
    start = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
    shardings = shardings_of(jax.eval_shape(lambda: start), param_shardings(params, mesh), mesh)
    state = jax.tree.map(
        lambda leaf, place: jax.jit(lambda x: x, out_shardings=place)(np.asarray(leaf)), start, shardings
    )
    manifest = read_manifest(folder)
    objective = Objective(
        definition=definition,
        mesh=mesh,
        preference=Orpo(beta=0.3),
        max_pairs=manifest.splits["train"].max_pairs_per_row,
    )
    share = row_share(mesh)
    batches = train_batches(
        folder,
        manifest,
        rows_per_step=ROWS,
        shuffle=True,
        seed=0,
        process_index=share.shard_index,
        process_count=share.shard_count,
    )
    step_fn = jax.jit(
        partial(train_step, objective=objective, optimizer=optimizer, micro_batches=micro_batches),
        out_shardings=(shardings, None),
    )
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
    found = {}
    with jax.set_mesh(mesh):
        for step in range(1, STEPS + 1):
            batch = next(batches)
            state, metrics = step_fn(state, put_on_mesh({name: batch[name] for name in DEVICE_ARRAYS}, mesh))
            found |= {f"{step}/{name}": np.asarray(value) for name, value in metrics.items()}
            leaves = {"params": state["params"], "moments": jax.tree.leaves(state["opt_state"])}
            leaves["moments"] = {str(number): leaf for number, leaf in enumerate(leaves["moments"])}
            for name, leaf in flatten_dict(leaves, sep="/").items():
                found[f"{step}/{name}"] = np.asarray(whole(leaf).addressable_data(0))
    batches.close()
    return found


def main() -> None:
    folder, out, dtype, process, count, port, *variants = sys.argv[1:]
    if count != "1":
        join_processes(
            DistributedConfig(
                coordinator_address=f"localhost:{port}", num_processes=int(count), process_id=int(process)
            )
        )
    jax.config.update("jax_enable_x64", dtype == "float64")
    for variant in variants:
        *numbers, mechanism = (variant if variant.count(",") == 4 else f"{variant},xla").split(",")
        micro_batches, data, fsdp, tensor = map(int, numbers)
        axes = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
        found = state_after(folder, jnp.dtype(dtype), micro_batches, axes, mechanism)
        if jax.process_index() == 0:
            np.savez(Path(f"{out}-{variant}.npz"), **found)


if __name__ == "__main__":
    main()
