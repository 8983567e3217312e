"""Compiles the plans of docs/howto/plan_a_run.md and writes its table anew: `make plans`, half an hour on one core."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.console import show_messages
from oddsmill.train.config.plan import PlanConfig
from oddsmill.train.planning.plan import Plan, describe_trial, make_plan

PAGE = Path(__file__).parent / "howto" / "plan_a_run.md"
PLANS = {
    "Llama-3.1-8B": ("v5e-64", "recipes/plan/llama-3.1-8b.json"),
    "Llama-3-70B": ("v5p-128", "recipes/plan/llama-3-70b.json"),
}
SETTINGS = ["--row_length=4096", "--total_batch_size=64", "--compute_dtype=bfloat16"]
BEGIN, END = "<!-- written by make plans -->\n", "<!-- end -->\n"
HEAD = (
    "| model | slice | mesh | recomputed | state | temporary | all of | executed / model TFLOP "
    "| gathered / reduced GB |\n|---|---|---|---|---|---|---|---|---|\n"
)


def row(name: str, plan: Plan) -> str:
    """Returns a line of the table: one device's figures, memory in GiB."""
    figures, trial, topology = plan.trials[-1].figures, plan.trials[-1], plan.topology
    assert figures is not None and topology.memory_bytes is not None
    memory = figures.memory
    mesh = " x ".join(str(size) for size in dataclasses.astuple(trial.mesh))
    state = memory.params + memory.optimizer
    gathered, reduced = figures.moved["all-gather"], figures.moved["all-reduce"] + figures.moved["reduce-scatter"]
    cells = (
        name, topology.name, mesh, f"`{str(trial.policy).lower()}`", f"{state / 2**30:.2f}",
        f"{memory.temporary / 2**30:.2f}",
        f"{memory.total / 2**30:.2f} of {topology.memory_bytes / 2**30:.0f}",
        f"{figures.flops / 1e12:.0f} / {figures.model_flops / len(topology.devices) / 1e12:.0f}",
        f"{gathered / 1e9:.0f} / {reduced / 1e9:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def main(further: Sequence[str]) -> None:
    """Compiles all plans. Args: further: settings beside those of the page, such as --attn_mechanism=splash."""
    jax.config.update("jax_platforms", "cpu")
    show_messages()
    lines, tried = [], []
    for name, (topology, config) in PLANS.items():
        arguments = [f"--topology={topology}", f"--model.config={config}", *SETTINGS, *further]
        plan = make_plan(load_settings(PlanConfig, arguments, command="docs.make_plans"))
        lines.append(row(name, plan))
        tried += [f"{name} {describe_trial(trial)}\n" for trial in plan.trials]
    table = f"{HEAD}{''.join(lines)}\nTried, in this order:\n\n```\n{''.join(tried)}```\n"
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert pattern.search(text)
    PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}{table}{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
