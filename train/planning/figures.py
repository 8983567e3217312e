"""Compiles the step of a run and reads off its memory, FLOPs and collectives."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.train.data.loader import DEVICE_ARRAYS
from oddsmill.train.model.frozen import split_params
from oddsmill.train.monitor.mfu import attention_flops, step_flops
from oddsmill.train.parallel.sharding import batch_sharding, shard_bytes
from oddsmill.train.planning.compiled import Program
from oddsmill.train.planning.rows import StepRows
from oddsmill.train.step.program import StepProgram

# The program is compiled to be read, not run, so LLVM need not optimise it. XLA's passes before LLVM, which decide the
# program and its memory, are the same but for a few bytes.
_NO_MACHINE_CODE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
# Matrix products of an attention layer's gradient, in units of its forward pass: the forward pass has two products,
# the gradient five, one of which computes the scores again.
_GRADIENT_OF_ATTENTION = 2.5


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The bytes that a device holds at once during a step, by what they are.

    Attributes:
      temporary: gradients, saved activations and all else that lives within the step.
      other: the program itself, results that reuse no argument's memory, and the padding of arrays to whole tiles.
    """

    params: int
    optimizer: int
    frozen: int
    batch: int
    temporary: int
    other: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Memory, arithmetic and communication of a compiled step, for one device where nothing else is said.

    Attributes:
      in_place: bytes of arguments whose memory results reuse: the donated state.
      model_flops: FLOPs that the model needs, of all devices together, as train/monitor/mfu.py counts them.
      flops: FLOPs that the program executes. `formula_flops` of them are attention's, added by a formula where the
        program does not show them.
      moved: bytes that each kind of collective brings to the device.
    """

    memory: Memory
    in_place: int
    model_flops: float
    flops: float
    formula_flops: float
    moved: dict[str, int]


def batch_shapes(program: StepProgram, *, rows: int, row_length: int) -> dict[str, Any]:
    """Returns the batch of a run's step as shapes, dtypes and shardings."""
    array = jax.ShapeDtypeStruct((rows, row_length), jnp.int32, sharding=batch_sharding(program.mesh))
    return dict.fromkeys(DEVICE_ARRAYS, array)


def compile_step(program: StepProgram, batch: dict[str, Any]) -> jax.stages.Compiled:
    """Compiles the step of a run for the devices of its mesh; on CPUs into a program that is too slow to be run."""
    frozen = split_params(program.abstract_model, program.frozen_paths)[1]
    jitted: Any = program.jitted_step()
    with jax.set_mesh(program.mesh):
        lowered = jitted.lower(program.abstract_state, batch, frozen)
    is_cpu = program.mesh.devices.flat[0].platform == "cpu"
    return lowered.compile(compiler_options=_NO_MACHINE_CODE if is_cpu else None)


def measure(program: StepProgram, rows: StepRows, *, recomputes: bool) -> Figures:
    """Compiles the step of these rows and reads off its figures.

    Args:
      recomputes: True if the backward pass computes activations again (gradient_checkpointing).

    Raises:
      JaxRuntimeError: the step does not fit in the devices' memory.
    """
    batch = batch_shapes(program, rows=len(rows.branch), row_length=rows.row_length)
    compiled = compile_step(program, batch)
    state, compiled_program = program.abstract_state, Program(compiled.as_text() or "")
    sizes: Any = compiled.memory_analysis()
    trained = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    trained_share = trained / sum(leaf.size for leaf in jax.tree.leaves(program.abstract_model))
    formula_flops = 0.0
    if compiled_program.hides_products:
        passes = _GRADIENT_OF_ATTENTION + (2 if recomputes else 1)
        formula_flops = passes * attention_formula(program, rows) / program.mesh.size
    frozen = split_params(program.abstract_model, program.frozen_paths)[1]
    arguments = {
        "params": shard_bytes(state["params"]),
        "optimizer": shard_bytes(state["opt_state"]),
        "frozen": shard_bytes(frozen),
        "batch": shard_bytes(batch),
    }
    outside = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    other = sizes.generated_code_size_in_bytes + outside - sum(arguments.values())
    model_flops = step_flops(
        program.decoder_config,
        rows.position,
        rows.branch,
        nll_scope=program.objective.preference.nll_scope,
        trained_share=trained_share,
    )
    return Figures(
        memory=Memory(**arguments, temporary=sizes.temp_size_in_bytes, other=other),
        in_place=sizes.alias_size_in_bytes,
        model_flops=model_flops,
        flops=compiled_program.flops() + formula_flops,
        formula_flops=formula_flops,
        moved=compiled_program.moved(),
    )


def attention_formula(program: StepProgram, rows: StepRows) -> float:
    """Returns the FLOPs of attention's forward pass: over the keys that each token sees, or as its mechanism counts."""
    config, position, branch = program.decoder_config, rows.position, rows.branch
    passes = program.attn_mechanism.causal_passes
    if passes is None:
        return attention_flops(config, position, branch)
    whole_rows = np.broadcast_to(np.arange(position.shape[1]), position.shape)
    return passes * attention_flops(config, whole_rows, np.ones_like(branch))
