"""Compares our trainer with TRL, EasyDeL and Tunix: same pairs, same starting weights, in turns, on one core.

    python -m bench.peers [--data=hh|long|both] [--rounds=3] [--sides TRL EasyDeL] [--file]

A small Llama in float32, AdamW, about as many pairs a step. Each side is its own trainer in a process of its own, from
an environment of its own (`make bench-peers` makes them), in its best reasonable setting: TRL pads to the longest of a
batch, the others to the longest prompt and answer of all. Pairs that some side would cut are left out. The steps that
are measured follow a warm-up, and each side sees every pair once in them; memory is the peak of the whole process.

The learning rate is so small that the weights stay as they are. So each step's loss is that of its batch at the
starting weights, and is compared with ours on the same pairs.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.model_shapes import SMALL
from bench.peers.job import Job
from bench.peers.prepare import prepare_data, whole_rows
from bench.peers.random_weights import write_weights
from bench.peers.sides import OURS, SIDES, Side, SideFailed, run_side
from bench.preference_texts import TEXTS, TOKENIZERS
from bench.process_meter import pin
from bench.result_page import Page, arguments, chosen_texts, page_name

# Pairs a second of ours over theirs, at least; and our peak memory over theirs, at most.
SPEED_BOUNDS = {("hh", "TRL"): 4.0, ("long", "TRL"): 2.5, ("hh", "EasyDeL"): 8.0}
MEMORY_BOUND = 0.5
LOSS_TOLERANCE = 1e-3
# TRL's own default of 8 pairs a step; of the long ones as many as two of our rows hold.
PAIRS_PER_STEP = {"hh": 8, "long": 4}

Result = dict[str, Any]


def compare(page: Page, name: str, sides: Sequence[Side], given: argparse.Namespace, folder: Path) -> bool:
    """Adds a table of one dataset; returns whether all bounds hold."""
    texts, tokenizer = TEXTS[name], TOKENIZERS / "phi-3-mini"
    rows = whole_rows(texts.rows(), tokenizer, max_length=texts.max_length, count=given.steps * PAIRS_PER_STEP[name])
    job = prepare_data(
        folder / name,
        rows,
        tokenizer=tokenizer,
        max_length=texts.max_length,
        shape=SMALL,
        pairs_per_step=PAIRS_PER_STEP[name],
    )
    write_weights(job.path, dtype=job.dtype)
    describe(page, texts.name, job)
    expected = run_side(OURS, job, "losses")["losses"]
    results: dict[Side, list[Result]] = {side: [] for side in sides}
    for _ in range(given.rounds):
        for side in sides:
            print(f"{texts.name}: {side.name}", file=sys.stderr, flush=True)
            try:
                results[side].append(run_side(side, job))
            except SideFailed as failure:
                page.say(f"{failure}\n")
    if not results[OURS]:
        raise SystemExit("ours gave no result")
    page.head(
        "trainer", "pairs/CPU-s", "pairs/s", "real tokens/CPU-s", "peak RSS, MB", "ours / it: pairs/CPU-s",
        "ours / it: pairs/s", "ours / it: memory", "largest loss difference",
    )  # fmt: skip
    tokens = sum(2 * len(p["prompt"]) + len(p["chosen"]) + len(p["rejected"]) for p in job.pairs()) / len(rows)
    ours = summary(results[OURS])
    lines, holds = [], True
    for side, measured in results.items():
        if not measured:
            continue
        its = summary(measured)
        speed, memory = ours["cpu"] / its["cpu"], ours["rss"] / its["rss"]
        difference = None if side is OURS else loss_difference(measured, expected)
        page.row(
            f"{side.name} ({', '.join(f'{name} {version}' for name, version in measured[0]['versions'].items())})",
            f"{its['cpu']:.2f}", f"{its['wall']:.2f}", f"{its['cpu'] * tokens:,.0f}", f"{its['rss'] / 1e6:,.0f}",
            f"{speed:.2f}", f"{ours['wall'] / its['wall']:.2f}", f"{memory:.2f}",
            "" if difference is None else f"{difference:.1e}",
        )  # fmt: skip
        if side is OURS:
            continue
        found = [f"memory {memory:.2f} of at most {MEMORY_BOUND}"] if memory > MEMORY_BOUND else []
        bound = SPEED_BOUNDS.get((name, side.name), 0)
        found += [f"speed {speed:.2f} of at least {bound:g}"] if speed < bound else []
        if side.same_loss and difference > LOSS_TOLERANCE:
            found.append(f"the losses differ by {difference:.1e}")
        if different := measured[0].get("different_tokens"):
            found.append(f"{different} pairs have other tokens")
        holds &= not found
        lines.append(f"- {side.name}: {'; '.join(found) or 'all bounds hold'}")
    page.say("\n" + "\n".join(lines))
    return holds


def describe(page: Page, name: str, job: Job) -> None:
    page.say(
        f"\n## {name}\n\n{len(job.pairs())} pairs of at most {job.max_length} tokens a side, the longest prompt "
        f"{job.max_prompt_length}, the longest answer {job.max_completion_length}. {job.pairs_per_step} pairs a step; "
        f"ours {job.rows_per_step} rows of {2 * job.max_length}. {job.warmup_steps} steps of warm-up, then "
        f"{job.steps}; ours {job.our_steps}. {job.dtype}.\n"
    )


def summary(results: list[Result]) -> dict[str, float]:
    """Returns the medians of pairs a CPU second and a second, and the greatest peak of memory in bytes."""
    return {
        "cpu": median(result["pairs"] / result["cpu_s"] for result in results),
        "wall": median(result["pairs"] / result["wall_s"] for result in results),
        "rss": max(result["peak_rss_bytes"] for result in results),
    }


def loss_difference(results: list[Result], expected: list[float]) -> float:
    """Returns the largest difference over all steps; batches repeat in the order of the file."""
    return max(
        abs(loss - expected[step % len(expected)]) for result in results for step, loss in enumerate(result["losses"])
    )


def main() -> None:
    names = [side.name for side in SIDES if side is not OURS]
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=8, help="measured steps; they see every pair once")
    parser.add_argument("--sides", nargs="+", choices=names, default=names, help="who is measured beside ours")
    given = parser.parse_args()
    pin([given.core])
    page = Page("Ours beside its peers", what=page_name("peers", given.data), module="bench.peers")
    sides = [side for side in SIDES if side is OURS or side.name in given.sides]
    for side in sides:
        if not side.is_there:
            page.say(f"{side.name} is left out: there is no {side.python}; `make bench-peers` makes it\n")
    sides = [side for side in sides if side.is_there]
    page.say(f"Small Llama (d256, 4 layers) from random weights, AdamW; one core; medians of {given.rounds} rounds.")
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen_texts(given.data):
            holds &= compare(page, name, sides, given, Path(folder))
    if given.file:
        page.file()
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
