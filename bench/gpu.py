"""Trains models of 0.5 and 1.2 B in bfloat16 on one GPU: ours with each attention mechanism, beside TRL with sdpa.

    python -m bench.gpu prepare         where the pipeline is installed: texts, tokens, packed rows into --folder
    python -m bench.gpu run [--minutes=9] [--file] [--trl_python=python3]           on the machine with the GPU
    python -m bench.gpu both --small    the same script at toy size, in a minute or two on a CPU

Both sides have the same model from the same random weights, the same pairs in rows of 2048 (max_length 1024) and 4096
(2048), with lengths like UltraFeedback's, about as many pairs a step, and bfloat16 for weights, AdamW's moments and
matrix products. First the correctness of every attention kernel is checked (`python -m bench.attention`). A side that
runs out of memory recomputes activations; if that is not enough, TRL takes smaller micro-batches. The most important
runs come first; the page names those for which the minutes did not suffice. MFU counts the FLOPs that the model needs
for real tokens, with a pair's prompt once (train/monitor/mfu.py), for both sides alike.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, get_args

from bench.model_shapes import HALF_B, ONE_B, TOY, Shape
from bench.peers.job import ROOT, Job
from bench.peers.random_weights import write_weights
from bench.peers.sides import OURS, TRL, Side, SideFailed, run_side
from bench.preference_texts import TOKENIZERS, ultrafeedback_like_rows
from bench.result_page import Page
from oddsmill.train.config.compute import AttentionMechanism

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "OutOfMemory", "out of memory")
# auto is measured in any case, vanilla holds all scores at once, splash is for TPUs.
NOT_COMPARED = ("auto", "vanilla", "splash")
MINIMUM_S = 20  # no run begins with less time left


@dataclass(frozen=True)
class Size:
    """The extent of a measurement.

    Attributes:
      shapes: models by name, the most important first.
      max_lengths: limits of a pair in tokens; a row holds twice as many.
      pairs_per_step: pairs of each step.
      pairs: pairs of the dataset, a multiple of `pairs_per_step`.
      scale: factor of the pairs' lengths to UltraFeedback's.
      attention: arguments of the check of the kernels.
    """

    shapes: dict[str, Shape]
    tokenizer: str
    max_lengths: tuple[int, ...]
    pairs_per_step: int
    pairs: int
    scale: float = 1.0
    attention: tuple[str, ...] = ()


FULL = Size({"1B": ONE_B, "0.5B": HALF_B}, "llama-3", (2048, 1024), pairs_per_step=16, pairs=128)
SMALL = Size(
    {"toy": TOY}, "phi-3-mini", (128,), pairs_per_step=4, pairs=16, scale=0.1,
    attention=("--length=256", "--rows=1", "--heads=4", "--key_heads=2"),
)  # fmt: skip


def job_folder(folder: Path, name: str, max_length: int) -> Path:
    return folder / f"{name}-{2 * max_length}"


def prepare(folder: Path, size: Size) -> None:
    """Writes the data of every model and row length, and each model's config.json; a few MB."""
    from bench.peers.prepare import prepare_data, whole_rows  # the pipeline, which a machine with a GPU need not have

    if folder.exists():
        raise SystemExit(f"{folder} is there already: remove it, or give another --folder")
    folder.mkdir(parents=True)
    tokenizer = TOKENIZERS / size.tokenizer
    for max_length in size.max_lengths:
        # More are drawn than are needed: words do not all have as many tokens.
        texts = ultrafeedback_like_rows(4 * size.pairs, max_tokens=max_length, scale=size.scale)
        rows = whole_rows(texts, tokenizer, max_length=max_length, count=size.pairs)
        for name, shape in size.shapes.items():
            job = prepare_data(
                job_folder(folder, name, max_length), rows, tokenizer=tokenizer, max_length=max_length, shape=shape,
                pairs_per_step=size.pairs_per_step, dtype="bfloat16",
            )  # fmt: skip
            job.write(job.path / "job.json")


def read_prepared(folder: Path) -> Job:
    """Returns the job in a folder that may have been brought from another machine."""
    return dataclasses.replace(Job(**json.loads((folder / "job.json").read_text())), folder=str(folder))


def check_attention(page: Page, size: Size) -> None:
    """Checks every kernel against a float64 reference, before anything is timed."""
    command = [sys.executable, "-m", "bench.attention", *size.attention]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    page.say("## Attention kernels against float64\n\n```\n" + finished.stdout.strip() + "\n```\n")
    if finished.returncode:
        page.say("**A kernel is wrong, or the check did not run: its timings below mean nothing.**\n")


def runs(size: Size, trl: Side) -> list[tuple[str, int, Side, str]]:
    """Returns (model, max_length, side, attention mechanism) of all runs, the most important first."""
    models = [(name, max_length) for name in size.shapes for max_length in size.max_lengths]
    mechanisms = [each for each in get_args(AttentionMechanism) if each not in NOT_COMPARED]
    sides = [(OURS, "auto"), (trl, "sdpa")]
    pairs = [(*model, *side) for model in models for side in sides]
    first = len(sides) * len(size.max_lengths)  # of the first model
    return pairs[:first] + [(*models[0], OURS, mechanism) for mechanism in mechanisms] + pairs[first:]


def fallbacks(job: Job, side: Side) -> list[Job]:
    """Returns the job, then its variants that need less and less memory."""
    found = [job, dataclasses.replace(job, remat=True)]
    if side is not OURS:
        found += [dataclasses.replace(job, remat=True, micro_batches=n) for n in (2, 4, 8) if n <= job.pairs_per_step]
    return found


def measure(job: Job, side: Side, *, until: float) -> tuple[dict[str, Any], Job]:
    """Runs the first of the fallbacks that fits into memory; returns its report and its job.

    Raises:
      SideFailed: none fits, or there is another error.
    """
    for attempt in fallbacks(job, side):
        try:
            return run_side(side, attempt, timeout_s=max(1.0, until - time.monotonic())), attempt
        except SideFailed as failure:
            if not any(words in failure.stderr for words in OUT_OF_MEMORY):
                raise
    raise SideFailed(side, "does not fit into memory")


def run(folder: Path, size: Size, given: argparse.Namespace) -> None:
    until = time.monotonic() + 60 * given.minutes
    page = Page("Training on one GPU, beside TRL", what="gpu-small" if given.small else "gpu", module="bench.gpu")
    check_attention(page, size)
    trl = dataclasses.replace(TRL, python=given.trl_python or TRL.python)
    page.say("## Training steps\n")
    page.head(
        "model", "row", "trainer", "attention", "pairs a step", "recomputed", "pairs/s", "real tokens/s", "MFU",
        "peak device GB", "mean loss", "ours / it: pairs/s",
    )  # fmt: skip
    ours: dict[tuple[str, int], dict[str, Any]] = {}
    notes, device = [], None
    for name, max_length, side, mechanism in runs(size, trl):
        label = f"{name}, rows of {2 * max_length}, {side.name}, {mechanism}"
        if time.monotonic() > until - MINIMUM_S:
            notes.append(f"- {label}: not run, out of time")
            continue
        job = read_prepared(job_folder(folder, name, max_length))
        if not (job.path / "model" / "model.safetensors").exists():
            write_weights(job.path, dtype=job.dtype)
        if side is OURS:
            job = dataclasses.replace(job, attn_mechanism=mechanism)
        try:
            result, job = measure(job, side, until=until)
        except SideFailed as failure:
            notes.append(f"- {label}: {failure}")
            continue
        if side is OURS and mechanism == "auto":
            ours[name, max_length] = result
            device = result["device"]
        page.row(name, str(2 * max_length), side.name, mechanism, *cells(result, job, ours.get((name, max_length))))
    page.say("\n" + "\n".join(notes))
    if given.file:
        page.file(hardware=None if device in (None, "cpu") else device.lower().replace(" ", "-"))


def cells(result: dict[str, Any], job: Job, ours: dict[str, Any] | None) -> list[str]:
    """Returns the cells of a row. Args: ours: our report on the same model and rows, which has the FLOPs of a pair."""
    rate, pairs = result["pairs"] / result["wall_s"], job.pairs()
    tokens = sum(2 * len(pair["prompt"]) + len(pair["chosen"]) + len(pair["rejected"]) for pair in pairs) / len(pairs)
    mfu = ours and ours["peak_flops"] and rate * ours["flops_per_pair"] / ours["peak_flops"]
    memory = result["peak_device_bytes"]
    steps = job.our_steps if "flops_per_pair" in result else job.steps
    return [
        f"{result['pairs'] / steps:.1f}",
        ("all" if job.remat else "nothing") + (f", {job.micro_batches} micro-batches" if job.micro_batches > 1 else ""),
        f"{rate:.2f}",
        f"{rate * tokens:,.0f}",
        f"{mfu:.3f}" if mfu else "",
        f"{memory / 1e9:.1f}" if memory else "",
        f"{mean(result['losses']):.3f}",
        f"{ours['pairs'] / ours['wall_s'] / rate:.2f}" if ours else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["prepare", "run", "both"])
    parser.add_argument("--folder", type=Path, default=Path("build/bench-gpu"), help="must not be there to prepare")
    parser.add_argument("--small", action="store_true", help="toy size, for a CPU")
    parser.add_argument("--minutes", type=float, default=9, help="of `run`, all in all")
    parser.add_argument("--trl_python", help="the Python that has torch and trl; else .venv-peers-trl")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    given = parser.parse_args()
    size, folder = SMALL if given.small else FULL, given.folder.absolute()
    if given.verb != "run":
        prepare(folder, size)
    if given.verb != "prepare":
        run(folder, size, given)


if __name__ == "__main__":
    main()
