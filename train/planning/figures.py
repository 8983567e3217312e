"""What a compiled step takes of each device."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.data_order import WORDS
from oddsmill.train.data.loader import DEVICE_ARRAYS
from oddsmill.train.model.frozen import split_params
from oddsmill.train.monitor.mfu import attention_flops, step_flops
from oddsmill.train.parallel.sharding import batch_sharding, shard_bytes
from oddsmill.train.parallel.stop_requests import WISH
from oddsmill.train.planning.compiled import Program
from oddsmill.train.planning.rows import StepRows
from oddsmill.train.planning.topologies import Topology
from oddsmill.train.step.assembly import Assembly

# LLVM need not make fast what is not run. The program before it, and its memory, are the same but for a few bytes.
_NO_MACHINE_CODE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
# Products of attention a layer, in units of its forward pass: that has two, the gradient five, one of which is the
# scores made again.
_GRADIENT_OF_ATTENTION = 2.5


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes a device holds at once, by what they are.

    Attributes:
      temporary: gradients, saved activations and all else that lives within the step.
      other: the program itself, results that take no argument's place, and what rounds arrays to whole tiles.
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
    """What a compiled step takes of each device.

    Attributes:
      in_place: bytes of arguments whose place results take: the state, donated.
      model_flops: of all devices, by train/monitor/mfu.py.
      flops: of one, as compiled; `formula_flops` of them are attention's, where the program does not show them.
      moved: bytes a kind of collective brings to a device.
      main_memory_bytes: what goes through its main memory.
    """

    memory: Memory
    in_place: int
    model_flops: float
    flops: float
    formula_flops: float
    moved: dict[str, int]
    main_memory_bytes: int

    def seconds(self, topology: Topology) -> dict[str, float]:
        """The time of each part were it alone; empty where the devices' speed is not known. The step takes the
        greatest at least: the three overlap at best.
        """
        chip, peak = topology.chip, topology.peak_flops
        if chip is None or peak is None:
            return {}
        over_links = sum(self.moved.values()) + self.moved["all-reduce"]  # once to reduce, once to gather again
        return {
            "products": self.flops / peak,
            "main memory": self.main_memory_bytes / chip.memory_bytes_per_s,
            "links": over_links / chip.link_bytes_per_s,
        }

    def bound(self, topology: Topology) -> tuple[float, float]:
        """The estimate of a step's seconds, and the MFU it makes; of devices whose speed is known."""
        seconds = max(self.seconds(topology).values())
        return seconds, self.model_flops / seconds / len(topology.devices) / (topology.peak_flops or math.inf)


def batch_shapes(assembly: Assembly, *, rows: int, row_length: int, num_processes: int = 1) -> dict[str, Any]:
    """The batch of a run's step: shapes, dtypes and shardings."""
    places = batch_sharding(assembly.mesh)

    def shape(*dims: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *dims), dtype, sharding=places)

    batch = {name: shape(row_length) for name in DEVICE_ARRAYS}
    if num_processes > 1:
        batch |= {WISH: shape(), WORDS: shape(2, dtype=jnp.uint32)}
    return batch


def compile_step(assembly: Assembly, batch: dict[str, Any]) -> jax.stages.Compiled:
    """The step of a run, for the devices of its mesh; not to be run."""
    frozen = split_params(assembly.abstract_model, assembly.frozen_paths)[1]
    jitted: Any = assembly.jitted_step()
    with jax.set_mesh(assembly.mesh):
        lowered = jitted.lower(assembly.abstract_state, batch, frozen)
    is_cpu = assembly.mesh.devices.flat[0].platform == "cpu"
    return lowered.compile(compiler_options=_NO_MACHINE_CODE if is_cpu else None)


def _attention_flops(assembly: Assembly, rows: StepRows) -> float:
    """Forward alone: over the keys that each token sees; by splash over all before it, for two views of each row."""
    config, position, branch = assembly.decoder_config, rows.position, rows.branch
    if assembly.attn_mechanism.name != "splash":
        return attention_flops(config, position, branch)
    whole_rows = np.broadcast_to(np.arange(position.shape[1]), position.shape)
    return 2 * attention_flops(config, whole_rows, np.ones_like(branch))


def measure(assembly: Assembly, run: TrainConfig, rows: StepRows, topology: Topology) -> Figures:
    """Compiles the step of these rows, and reads its figures off.

    Raises:
      JaxRuntimeError: it does not fit.
    """
    batch = batch_shapes(
        assembly, rows=run.rows_per_step, row_length=rows.row_length, num_processes=topology.num_processes
    )
    compiled = compile_step(assembly, batch)
    state, program = assembly.abstract_state, Program(compiled.as_text() or "")
    sizes: Any = compiled.memory_analysis()
    trained = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    share = trained / sum(leaf.size for leaf in jax.tree.leaves(assembly.abstract_model))
    formula = 0.0
    if program.hides_products:
        passes = _GRADIENT_OF_ATTENTION + (2 if run.gradient_checkpointing else 1)
        formula = passes * _attention_flops(assembly, rows) / assembly.mesh.size
    frozen = split_params(assembly.abstract_model, assembly.frozen_paths)[1]
    arguments = {
        "params": shard_bytes(state["params"]),
        "optimizer": shard_bytes(state["opt_state"]),
        "frozen": shard_bytes(frozen),
        "batch": shard_bytes(batch),
    }
    outside = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    other = sizes.generated_code_size_in_bytes + outside - sum(arguments.values())
    memory = Memory(**arguments, temporary=sizes.temp_size_in_bytes, other=other)
    return Figures(
        memory=memory,
        in_place=sizes.alias_size_in_bytes,
        model_flops=step_flops(
            assembly.decoder_config,
            rows.position,
            rows.branch,
            nll_scope=assembly.objective.preference.nll_scope,
            trained_share=share,
        ),
        flops=program.flops() + formula,
        formula_flops=formula,
        moved=program.moved(),
        main_memory_bytes=program.main_memory_bytes(),
    )
