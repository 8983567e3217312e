"""The cost of a mesh for each device, in memory and in bytes that collectives bring, read off the compiled step.

    python -m bench.mesh [--layers=8] [--hidden=512] [--vocab=16384] [--rows=16] [--length=512] [--micro_batches=1]

The devices are eight fake CPUs; nothing is run. XLA's compiler for CPUs makes no reduce-scatter: it makes an all-reduce
and a slice instead, which counts as an all-reduce here.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.model.hf_config import parse_config
from oddsmill.train.planning.compiled import Program
from oddsmill.train.planning.figures import batch_shapes, compile_step
from oddsmill.train.step.program import build_program

MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2))


def compiled_step(axes: MeshConfig, given: argparse.Namespace) -> Any:
    model = {
        "model_type": "llama",
        "vocab_size": given.vocab,
        "hidden_size": given.hidden,
        "intermediate_size": given.hidden * 11 // 4,
        "num_hidden_layers": given.layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    config = TrainConfig(
        data="", run_dir="", model=ModelConfig(config="-"), mesh=axes, compute_dtype="bfloat16",
        total_batch_size=given.rows // given.micro_batches, gradient_accumulation_steps=given.micro_batches,
    )  # fmt: skip
    step = build_program(
        config,
        parse_config(model, path="bench")[0],
        model_path=Path(),
        max_pairs=4,
        row_lengths=[given.length],
        num_steps=10,
    )
    return compile_step(step, batch_shapes(step, rows=given.rows, row_length=given.length))


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
