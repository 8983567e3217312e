"""Does the memory of a run grow, and what does monitoring cost? 500 steps of the tiny recipe, with all of it and none.

With all of it a run evaluates and answers prompts every 100 steps, saves a checkpoint every 50, and reports to
TensorBoard and, where it is installed, W&B (offline). With none it takes the same steps and writes metrics.jsonl alone.
Both run in processes of their own, in turn; memory is what the kernel reports.

    python -m bench.steady [--steps=500] [--rounds=1]
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess

TINY = Path(__file__).resolve().parents[1] / "recipes" / "tiny"
WARM_UP = 120  # steps that are not measured: compilations, the first evaluation, the first checkpoints
NOTHING = ["--eval_steps=null", "--save_steps=null", "--do_last_save=false", "--report_to=[]"]


def everything() -> list[str]:
    sinks = "tensorboard,wandb" if importlib.util.find_spec("wandb") else "tensorboard"
    return [
        "--eval_steps=100", "--save_steps=50", "--generation_num_prompts=4", "--generation_max_new_tokens=24",
        "--generate_during_eval=true", f"--report_to=[{sinks}]",
    ]  # fmt: skip


def resident_mb(process: int) -> float:
    """Returns the anonymous memory of a process; pages of files come and go with the kernel's cache."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(arguments: list[str], run_dir: Path) -> tuple[list[tuple[int, float]], float, float]:
    """Trains; returns (step, MB) samples, and after the warm-up the steps a second and CPU seconds a step."""
    command = [sys.executable, "-m", "oddsmill.train", "run", f"--run_dir={run_dir}", *arguments]
    environment = os.environ | {"WANDB_MODE": "offline"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    metrics, seen = run_dir / "metrics.jsonl", []
    when: dict[int, tuple[float, float]] = {}
    while process.poll() is None:
        time.sleep(0.1)
        if not metrics.exists() or not (lines := metrics.read_bytes().splitlines()):
            continue
        try:
            step = json.loads(lines[-1])["step"]
            seen.append((step, resident_mb(process.pid)))
            when.setdefault(step, (time.perf_counter(), cpu_seconds(process.pid)))
        except (ValueError, OSError, StopIteration):
            continue  # a line half written, or a process that has just ended
    if process.returncode:
        raise SystemExit(process.returncode)
    first, last = min(step for step in when if step >= WARM_UP), max(when)
    seconds, cpu = (after - before for before, after in zip(when[first], when[last], strict=True))
    return seen, (last - first) / seconds, cpu / (last - first)


def growth(seen: list[tuple[int, float]]) -> tuple[float, float]:
    """Returns the MB that memory grows in 100 steps after the warm-up, by least squares, and the memory at the end."""
    steps, megabytes = np.array([each for each in seen if each[0] >= WARM_UP]).T
    slope, start = np.polyfit(steps, megabytes, 1)
    return float(100 * slope), float(start + slope * steps[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1, help="how often each side is measured, in turn")
    given = parser.parse_args()
    rates: dict[str, list[tuple[float, float]]] = {"everything": [], "nothing": []}
    memory: dict[str, list[tuple[float, float]]] = {"everything": [], "nothing": []}
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        preprocess(
            PreprocessConfig(
                source=SourceConfig(path=str(TINY / "pairs.jsonl")),
                tokenizer=str(TINY / "tokenizer"),
                output=data,
                max_length=64,
                max_prompt_length=32,
            ),
        )
        common = [
            f"--data={data}", f"--model.config={TINY / 'config.json'}", f"--max_steps={given.steps}",
            "--gradient_checkpointing=false",
        ]  # fmt: skip
        for number in range(given.rounds):
            for name, arguments in (("everything", everything()), ("nothing", NOTHING)):
                seen, *rate = watch([*common, *arguments], Path(folder) / f"{name}-{number}")
                rates[name].append((rate[0], rate[1]))
                memory[name].append(growth(seen))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores; tiny recipe, {given.steps} steps; on: {everything()}")
    print("\n| run | steps/s | CPU s/step | memory at the end, MB | growth, MB a 100 steps |\n|---|---|---|---|---|")
    middle = {name: np.median(values, axis=0) for name, values in rates.items()}
    for name, (steps, cpu) in middle.items():
        slope, end = np.median(memory[name], axis=0)
        print(f"| {name} | {steps:.2f} | {cpu:.3f} | {end:.0f} | {slope:+.2f} |")
    faster, less = middle["nothing"] / middle["everything"]
    # Other processes on the machine change the first figure, hardly the second.
    print(f"\nwithout them {faster - 1:+.1%} steps a second, {less - 1:+.1%} CPU seconds a step")


if __name__ == "__main__":
    main()
