"""`oddsmill train plan`: compiles the step of a run for devices that are not here and finds what fits their memory."""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, RunFailed, require
from oddsmill.train.config.compute import RematerializationPolicy
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.model.hf_config import DecoderConfig, num_parameters
from oddsmill.train.planning.figures import Figures, measure
from oddsmill.train.planning.rows import StepRows, step_rows
from oddsmill.train.planning.topologies import Topology, find_topology
from oddsmill.train.step.program import build_program
from oddsmill.train.weights.model_files import find_model, read_model_files


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A mesh and a recomputation policy that were tried: `figures` if the step fits, else the `problem`."""

    mesh: MeshConfig
    policy: RematerializationPolicy
    figures: Figures | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The outcome of `make_plan`; the last of `trials` is the one that fits."""

    topology: Topology
    rows: StepRows
    num_parameters: int
    trials: list[Trial]


def make_plan(config: PlanConfig) -> Plan:
    """Tries meshes and recomputation policies until the step fits, and logs each try.

    Raises:
      Refused: the topology, the model, the rows or the only mesh is not possible.
      RunFailed: nothing fits.
    """
    topology = find_topology(config.topology)
    model_path = find_model(config.model, files=["config.json"])
    model = read_model_files(model_path, disable_dropout=config.disable_dropout)
    hf_config, decoder = model.hf_config, model.decoder_config
    rows = step_rows(config)
    require(
        (rows.max_token_id or 0) < decoder.vocab_size,
        "data",
        config.data,
        f"has ids beyond the vocabulary of {model_path}",
    )
    if config.frozen_dtype is None and (config.lora or config.frozen_parameters):
        # Frozen weights are kept in the dtype in which they are stored; config.json names it, too.
        stored = str(hf_config.get("dtype") or hf_config.get("torch_dtype") or config.param_dtype)
        config = dataclasses.replace(config, frozen_dtype="bfloat16" if "16" in stored else "float32")
    trials: list[Trial] = []
    candidates = list(_candidates(config, len(topology.devices)))
    for mesh, policy in candidates:
        try:
            figures = _try(config, mesh, policy, decoder, model_path, rows, topology)
        except Refused as refusal:
            if len(candidates) == 1:
                raise
            trials.append(Trial(mesh=mesh, policy=policy, problem=str(refusal)))
        except jax.errors.JaxRuntimeError as error:
            trials.append(Trial(mesh=mesh, policy=policy, problem=_out_of_memory(error)))
        else:
            trials.append(Trial(mesh=mesh, policy=policy, figures=figures))
        log.info(describe_trial(trials[-1]))
        if trials[-1].figures:
            return Plan(topology=topology, rows=rows, num_parameters=num_parameters(decoder), trials=trials)
    if not any("memory" in trial.problem for trial in trials):
        raise Refused(trials[0].problem)
    raise RunFailed(
        f"no mesh and policy that was tried fits {config.topology}. Less is needed with a lower --total_batch_size and "
        "more --gradient_accumulation_steps, --param_dtype=bfloat16, --optim=adamw_bf16 or lora; or take more devices"
    )


def _try(
    config: PlanConfig,
    mesh: MeshConfig,
    policy: RematerializationPolicy,
    decoder: DecoderConfig,
    model_path: Path,
    rows: StepRows,
    topology: Topology,
) -> Figures:
    """Assembles and compiles the step with one mesh and policy, as a run would."""
    run = config.run_settings(mesh=mesh, gradient_checkpointing=policy)
    epoch = rows.epoch or config.rows_per_step
    program = build_program(
        run,
        decoder,
        model_path=model_path,
        max_pairs=rows.max_pairs,
        row_lengths=[rows.row_length],
        num_steps=config.max_steps or math.ceil(config.num_train_epochs * epoch / config.rows_per_step),
        devices=topology.devices,
    )
    return measure(program, rows, recomputes=bool(policy))


def describe_trial(trial: Trial) -> str:
    """Returns a trial in one line: its settings, and how much memory it needs."""
    axes = dataclasses.asdict(trial.mesh)
    mesh = " ".join(f"--mesh.{axis}={size}" for axis, size in axes.items() if size not in (1, -1))
    policy = str(trial.policy).lower() if isinstance(trial.policy, bool) else trial.policy
    found = trial.problem
    if trial.figures:
        found = f"fits, {trial.figures.memory.total / 2**30:.2f} GiB a device"
    return f"{mesh or '--mesh.data=1'} --gradient_checkpointing={policy}: {found}"


def _candidates(config: PlanConfig, count: int) -> Iterator[tuple[MeshConfig, RematerializationPolicy]]:
    """Yields meshes and policies in the order of their expected speed: fewest collectives, then least recomputation."""
    tensors = [2**power for power in range(4) if count % 2**power == 0]
    meshes = [MeshConfig(data=1, fsdp=count // tensor, tensor=tensor) for tensor in tensors]
    chosen = config.gradient_checkpointing
    policies: list[RematerializationPolicy] = (
        [False, "dots_with_no_batch_dims_saveable", True] if chosen is None else [chosen]
    )
    for mesh in meshes if config.mesh == MeshConfig() else [config.mesh]:
        for policy in policies:
            yield mesh, policy


def _out_of_memory(error: jax.errors.JaxRuntimeError) -> str:
    """Returns how much memory a program needs, from XLA's refusal to compile it.

    Raises:
      JaxRuntimeError: the error is another one.
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    # The first size in the message is the one needed, the next the one available.
    sizes = re.findall(r"\b(\d[\d.]*)([KMGT])\b", text.splitlines()[0])
    figures = f": it needs {sizes[0][0]} {sizes[0][1]}iB of {sizes[1][0]} {sizes[1][1]}iB" if len(sizes) > 1 else ""
    return "does not fit in memory" + figures
