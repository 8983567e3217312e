"""The text that `oddsmill train plan` prints: a plan's figures as a table."""

from collections.abc import Iterator

from oddsmill.train.planning.figures import Figures
from oddsmill.train.planning.plan import Plan, describe_trial

_MIB = 2**20


def report(plan: Plan) -> str:
    """Returns the figures of the trial that fits, for one device, as a table for the console."""
    figures = plan.trials[-1].figures
    assert figures is not None
    return "\n".join([*_heading(plan), "", *_memory(plan, figures), "", *_work(plan, figures)])


def _line(name: str, value: float, note: str = "") -> str:
    return f"  {name:<28}{value:>14,.1f}{note and '  ' + note}"


def _heading(plan: Plan) -> Iterator[str]:
    rows, topology = plan.rows, plan.topology
    yield (
        f"\n{topology.name}: {len(topology.devices)} devices ({topology.devices[0].device_kind}), "
        f"{topology.num_processes} process(es); compiled, not run"
    )
    yield describe_trial(plan.trials[-1])
    yield f"model of {plan.num_parameters:,} parameters"
    yield (
        f"a step: {len(rows.branch):,} rows of {rows.row_length:,}, {rows.pairs:,} pairs, {rows.num_tokens:,} tokens, "
        f"{1 - rows.num_tokens / rows.branch.size:.1%} padding"
    )


def _memory(plan: Plan, figures: Figures) -> Iterator[str]:
    memory, available = figures.memory, plan.topology.memory_bytes
    yield "memory of a device, MiB"
    sizes = {
        "params": memory.params,
        "optimizer state": memory.optimizer,
        "frozen weights": memory.frozen,
        "batch": memory.batch,
        "gradients and temporaries": memory.temporary,
        "program, tiles, output": memory.other,
    }
    for name, size in sizes.items():
        yield _line(name, size / _MIB)
    yield _line("total", memory.total / _MIB, f"of {available / _MIB:,.0f}" if available else "")
    yield _line("of it updated in place", figures.in_place / _MIB)


def _work(plan: Plan, figures: Figures) -> Iterator[str]:
    yield "work of a device, a step"
    yield _line("model, GFLOP", figures.model_flops / len(plan.topology.devices) / 1e9)
    note = f"{figures.formula_flops / 1e9:,.1f} of them attention's, by formula: the program does not show them"
    yield _line("executed, GFLOP", figures.flops / 1e9, note if figures.formula_flops else "")
    for kind, size in figures.moved.items():
        if size:
            yield _line(f"{kind}, MB", size / 1e6)
