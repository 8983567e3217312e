"""What `oddsmill train plan` prints."""

from collections.abc import Iterator

from oddsmill.train.planning.figures import Figures
from oddsmill.train.planning.plan import Plan, describe_trial

_MIB = 2**20


def report(plan: Plan) -> str:
    """The figures of the trial that fits, a device."""
    figures = plan.trials[-1].figures
    assert figures is not None
    return "\n".join(
        [*_heading(plan), "", *_memory(plan, figures), "", *_work(plan, figures), "", *_time(plan, figures)]
    )


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
    memory, chip = figures.memory, plan.topology.chip
    yield "memory of a device, MiB"
    for name, size in (
        ("params", memory.params), ("optimizer state", memory.optimizer), ("frozen weights", memory.frozen),
        ("batch", memory.batch), ("gradients and temporaries", memory.temporary),
        ("program, tiles, output", memory.other),
    ):  # fmt: skip
        yield _line(name, size / _MIB)
    yield _line("total", memory.total / _MIB, f"of {chip.memory_bytes / _MIB:,.0f}" if chip else "")
    yield _line("of it updated in place", figures.in_place / _MIB)


def _work(plan: Plan, figures: Figures) -> Iterator[str]:
    yield "work of a device, a step"
    yield _line("model, GFLOP", figures.model_flops / len(plan.topology.devices) / 1e9)
    note = f"{figures.formula_flops / 1e9:,.1f} of them attention's, by formula: the program does not show them"
    yield _line("executed, GFLOP", figures.flops / 1e9, note if figures.formula_flops else "")
    yield _line("main memory, MB", figures.main_memory_bytes / 1e6)
    for kind, size in figures.moved.items():
        if size:
            yield _line(f"{kind}, MB", size / 1e6)


def _time(plan: Plan, figures: Figures) -> Iterator[str]:
    seconds = figures.seconds(plan.topology)
    if not seconds:
        yield "no time: the speed of these devices is not known"
        return
    bound, mfu = figures.bound(plan.topology)
    yield "time of a step, at best"
    for name, value in seconds.items():
        yield _line(f"{name}, ms", 1e3 * value)
    yield _line(
        "estimate, ms", 1e3 * bound, "the greatest of the three, which overlap at best; products at bfloat16 peak"
    )
    yield _line("MFU at most, %", 100 * mfu)
    yield _line("tokens a second", plan.rows.num_tokens / bound)
    yield _line("pairs a second", plan.rows.pairs / bound)
