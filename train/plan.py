"""`python -m train plan`: the step of a run, compiled for devices that are not here; what fits, and what it takes."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from schemas.errors import Refused, RunFailed, require
from train.assembly import Assembly, assemble
from train.compiled import Program, shard_bytes
from train.config import TrainConfig
from train.data import DEVICE_ARRAYS
from train.data_order import WORDS
from train.frozen import split_params
from train.hf_config import DecoderConfig, num_parameters
from train.hub import find_model
from train.mfu import attention_flops, step_flops
from train.plan_config import PlanConfig
from train.plan_rows import StepRows, step_rows
from train.setup import check_attention, read_decoder
from train.sharding import MeshConfig, batch_sharding
from train.topologies import Topology, find_topology
from train.wishes import WISH

# Products of attention a layer, in units of its forward pass: that has two, the gradient five, one of which is the
# scores made again.
_GRADIENT_OF_ATTENTION = 2.5


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes a device holds at once, by what they are.

    Attributes:
      temporary: gradients, saved activations and all else that lives within the step.
      code: the program itself, and results that take no argument's place.
    """

    params: int
    optimizer: int
    frozen: int
    batch: int
    temporary: int
    code: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a compiled step takes of each device.

    Attributes:
      in_place: bytes of arguments whose place results take: the state, donated.
      model_flops: of all devices, by train/mfu.py.
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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A mesh and a policy that were tried; `figures` where they fit, else `problem`."""

    mesh: MeshConfig
    policy: bool | str
    figures: Figures | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that was found. Attributes: trials: the last is the one that fits."""

    config: PlanConfig
    topology: Topology
    rows: StepRows
    num_parameters: int
    trials: list[Trial]


def make_plan(config: PlanConfig, *, say: Callable[[str], Any]) -> Plan:
    """Tries meshes and policies until one fits.

    Raises:
      Refused: the topology, the model, the rows or the only mesh cannot be.
      RunFailed: nothing fits.
    """
    topology = find_topology(config.topology)
    if config.model.path:
        model_path = find_model(config.model.path, config.model.revision, files=["config.json"])
    else:
        model_path = Path(config.model.config or "")
    run = config.run_config(gradient_checkpointing=True)
    hf_config, decoder = read_decoder(run, model_path, say=say)
    rows = step_rows(config, run)
    check_attention(run, decoder, {config.data or "--row_length": rows.row_length})
    require(
        (rows.vocab_size or 0) <= decoder.vocab_size,
        "data",
        config.data,
        f"has ids beyond the vocabulary of {model_path}",
    )
    if config.frozen_dtype is None and (config.lora or config.frozen_parameters):
        # Weights are kept as they are stored, which config.json says too.
        stored = str(hf_config.get("dtype") or hf_config.get("torch_dtype") or config.param_dtype)
        config = dataclasses.replace(config, frozen_dtype="bfloat16" if "16" in stored else "float32")
    epoch = rows.epoch or config.rows_per_step
    num_steps = config.max_steps or math.ceil(config.num_train_epochs * epoch / config.rows_per_step)
    trials: list[Trial] = []
    candidates = list(_candidates(config, len(topology.devices)))
    for mesh, policy in candidates:
        run = config.run_config(mesh=mesh, gradient_checkpointing=policy)
        try:
            assembly = assemble(
                run, decoder, model_path=model_path, max_pairs=rows.max_pairs, num_steps=num_steps,
                devices=topology.devices,
            )  # fmt: skip
            figures = _figures(assembly, decoder, run, rows, topology)
        except Refused as refusal:
            if len(candidates) == 1:
                raise
            trials.append(Trial(mesh=mesh, policy=policy, problem=str(refusal)))
        except jax.errors.JaxRuntimeError as error:
            trials.append(Trial(mesh=mesh, policy=policy, problem=_no_room(error)))
        else:
            trials.append(Trial(mesh=mesh, policy=policy, figures=figures))
        say(describe_trial(trials[-1]))
        if trials[-1].figures:
            return Plan(
                config=config, topology=topology, rows=rows, num_parameters=num_parameters(decoder), trials=trials
            )
    if not any("memory" in trial.problem for trial in trials):
        raise Refused(trials[0].problem)
    raise RunFailed(
        f"no mesh and policy that was tried fits {config.topology}. Less is needed with a lower --total_batch_size and "
        "more --gradient_accumulation_steps, --param_dtype=bfloat16, --optim=adamw_bf16 or lora; or take more devices"
    )


def describe_trial(trial: Trial) -> str:
    axes = dataclasses.asdict(trial.mesh)
    mesh = " ".join(f"--mesh.{axis}={size}" for axis, size in axes.items() if size not in (1, -1))
    policy = str(trial.policy).lower() if isinstance(trial.policy, bool) else trial.policy
    found = trial.problem
    if trial.figures:
        found = f"fits, {trial.figures.memory.total / 2**30:.2f} GiB a device"
    return f"{mesh or '--mesh.data=1'} --gradient_checkpointing={policy}: {found}"


def _candidates(config: PlanConfig, count: int) -> Iterator[tuple[MeshConfig, bool | str]]:
    """Meshes and policies, the fastest first by expectation: what moves least, then what computes least again."""
    tensors = [2**power for power in range(4) if count % 2**power == 0]
    meshes = [MeshConfig(data=1, fsdp=count // tensor, tensor=tensor) for tensor in tensors]
    chosen = config.gradient_checkpointing
    policies: list[bool | str] = [False, "dots_with_no_batch_dims_saveable", True] if chosen is None else [chosen]
    for mesh in meshes if config.mesh == MeshConfig() else [config.mesh]:
        for policy in policies:
            yield mesh, policy


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
    """The step of a run, for the devices of its mesh."""
    frozen = split_params(assembly.abstract_model, assembly.frozen_paths)[1]
    jitted: Any = assembly.jitted_step()
    with jax.set_mesh(assembly.mesh):
        return jitted.lower(assembly.abstract_state, batch, frozen).compile()


def _figures(
    assembly: Assembly, decoder: DecoderConfig, run: TrainConfig, rows: StepRows, topology: Topology
) -> Figures:
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
        formula = passes * attention_flops(decoder, rows.position, rows.branch) / assembly.mesh.size
    params, frozen = (
        shard_bytes(state["params"]),
        shard_bytes(split_params(assembly.abstract_model, assembly.frozen_paths)[1]),
    )
    memory = Memory(
        params=params,
        # With what rounding to tiles adds to all arguments.
        optimizer=sizes.argument_size_in_bytes - params - frozen - shard_bytes(batch),
        frozen=frozen,
        batch=shard_bytes(batch),
        temporary=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
    )
    return Figures(
        memory=memory,
        in_place=sizes.alias_size_in_bytes,
        model_flops=step_flops(decoder, rows.position, rows.branch, trained_share=share),
        flops=program.flops() + formula,
        formula_flops=formula,
        moved=program.moved(),
        main_memory_bytes=program.main_memory_bytes(),
    )


def _no_room(error: jax.errors.JaxRuntimeError) -> str:
    """What XLA says where a program does not fit.

    Raises:
      JaxRuntimeError: it says something else.
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    used = re.search(r"[Uu]sed ([\d.]+[KMGT]) of ([\d.]+[KMGT])", text)
    return "does not fit in memory" + (f", {used.group(1)}iB of {used.group(2)}iB" if used else "")
