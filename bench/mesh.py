"""What a mesh costs each device: memory, and bytes brought together a step. From the compiled step; nothing is run.

    python -m bench.mesh [--layers=8] [--hidden=512] [--vocab=16384] [--rows=16] [--length=512] [--micro_batches=1]

Eight fake devices. XLA's compiler for CPUs makes no reduce-scatter: where others reduce and scatter, it reduces to all
and slices, which counts as an all-reduce here.
"""

import argparse
import os
from functools import partial
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from flax import nnx

from schemas.layout import RowArrays
from train.checkpoint import abstract
from train.compiled import Program
from train.config import ModelConfig, TrainConfig
from train.hf_config import parse_config
from train.model import Decoder
from train.optimizer import make_optimizer
from train.sharding import MeshConfig, batch_sharding, make_mesh, param_shardings, state_shardings
from train.step import Objective, train_step

MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2))


def compiled_step(axes: MeshConfig, arguments: argparse.Namespace) -> Any:
    model = {
        "model_type": "llama",
        "vocab_size": arguments.vocab,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 11 // 4,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    mesh, (config, _) = make_mesh(axes), parse_config(model, path="bench")
    rows = batch_sharding(mesh)
    definition, weights = nnx.split(
        nnx.eval_shape(
            lambda: Decoder(
                config,
                rngs=nnx.Rngs(0),
                compute_dtype=jnp.dtype("bfloat16"),
                remat=True,
                constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
            )
        )
    )
    params = nnx.to_pure_dict(weights)
    optimizer = make_optimizer(TrainConfig(data="", run_dir="", model=ModelConfig(config="-")), 10)
    shapes = jax.eval_shape(
        lambda params: {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}, params
    )
    shardings = state_shardings(shapes, param_shardings(params, mesh), mesh)
    slots = jax.ShapeDtypeStruct((arguments.rows, arguments.length), jnp.int32, sharding=rows)
    step = partial(
        train_step,
        objective=Objective(definition=definition, mesh=mesh, beta=0.1, nll_scope="full", max_pairs=4),
        optimizer=optimizer,
        micro_batches=arguments.micro_batches,
    )
    with jax.set_mesh(mesh):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        return jitted.lower(abstract(shapes, shardings), dict.fromkeys(RowArrays._fields, slots)).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"layers": 8, "hidden": 512, "vocab": 16384, "rows": 16, "length": 512, "micro_batches": 1}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    print("| data x fsdp x tensor | state, MB | temporary, MB | gathered, MB | reduced, MB | otherwise moved, MB |")
    print("|---|---|---|---|---|---|")
    for data, fsdp, tensor in MESHES:
        step = compiled_step(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), arguments)
        memory, bytes_of = step.memory_analysis(), Program(step.as_text()).moved()
        rest = bytes_of["all-to-all"] + bytes_of["collective-permute"]
        cells = (
            memory.alias_size_in_bytes,
            memory.temp_size_in_bytes,
            bytes_of["all-gather"],
            bytes_of["all-reduce"] + bytes_of["reduce-scatter"],
            rest,
        )
        print(
            f"| {data} x {fsdp} x {tensor} | " + " | ".join(f"{value / 1e6:.1f}" for value in cells) + " |", flush=True
        )


if __name__ == "__main__":
    main()
