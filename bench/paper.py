"""Does ORPO do what the paper says? Figures 3 and 7 with a small model, trained by the NLL alone and by ORPO.

A small Llama from random weights reads the first pairs of HH several times, with the same seed, order of rows and
schedule: once at beta 0, which leaves the NLL alone, and once for each beta given. Prints a Markdown table of the ends
and draws the curves: with the NLL alone the log-probabilities of chosen and rejected answers rise together, with
ORPO they part (Hong et al. 2024, arXiv:2403.07691, sections 3 and 7).

    python -m bench.paper [--steps=400] [--pairs=400] [--out=docs/explanation/what_orpo_does.png]
"""

import argparse
import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from bench.preference_texts import HH, TOKENIZERS
from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.loop import train

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot

TOKENIZER = TOKENIZERS / "minimind-chatml"
MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
BETAS = (0.0, 0.25, 1.0)
WINDOW = 10  # a point of the curves is the mean of as many steps
SIDES = {"chosen": "-", "rejected": "--"}

Records = list[dict[str, float]]


def run(folder: Path, data: str, *, beta: float, steps: int) -> Records:
    """Trains once and returns the metrics of every step."""
    run_dir = folder / f"beta{beta}"
    config = TrainConfig(
        data=data,
        run_dir=str(run_dir),
        model=ModelConfig(config=str(folder / "config.json")),
        beta=beta,
        total_batch_size=4,
        max_steps=steps,
        warmup_steps=steps // 20,
        save_steps=None,
        do_last_save=False,
        report_to=[],
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        train(config)
    records = [json.loads(line) for line in RunFiles(run_dir).metrics.read_text().splitlines()]
    return [record for record in records if "loss" in record]


def smooth(values: Sequence[float]) -> np.ndarray:
    return np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")


def draw(runs: dict[float, Records], out: Path) -> None:
    figure, (answers, odds) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for number, (beta, records) in enumerate(runs.items()):
        name = f"ORPO, beta {beta:g}" if beta else "NLL alone"
        steps = smooth([record["step"] for record in records])
        for side, style in SIDES.items():
            logps = smooth([record[f"logps/{side}"] for record in records])
            answers.plot(steps, logps, style, color=f"C{number}", label=f"{name}: {side}")
        odds.plot(steps, smooth([record["log_odds_chosen"] for record in records]), color=f"C{number}", label=name)
    answers.set(title="mean log-probability of an answer token", xlabel="step")
    odds.set(title="log odds ratio of chosen to rejected", xlabel="step")
    answers.legend()
    odds.legend()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("docs/explanation/what_orpo_does.png"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = gzip.decompress(HH.read_bytes()).splitlines(keepends=True)[: arguments.pairs]
        (folder / "rows.jsonl").write_bytes(b"".join(rows))
        manifest = preprocess(
            PreprocessConfig(
                source=SourceConfig(path=str(folder / "rows.jsonl"), format="transcript"),
                tokenizer=str(TOKENIZER),
                output=str(folder / "data"),
                max_length=256,
                max_prompt_length=128,
                eval_share=0,
            ),
        )
        (folder / "config.json").write_text(json.dumps({**MODEL, "vocab_size": manifest.tokenizer.vocab_size}))
        runs = {beta: run(folder, str(folder / "data"), beta=beta, steps=arguments.steps) for beta in BETAS}
    draw(runs, arguments.out)
    print(
        f"{manifest.splits['train'].pairs} pairs, {arguments.steps} steps; means of the first and last {WINDOW} steps\n"
    )
    print("| beta | log p chosen | log p rejected | log odds ratio | accuracy |\n|---|---|---|---|---|")
    for beta, records in runs.items():
        cells = []
        for metric in ("logps/chosen", "logps/rejected", "log_odds_chosen", "rewards/accuracies"):
            first, last = (
                np.mean([record[metric] for record in part]) for part in (records[:WINDOW], records[-WINDOW:])
            )
            cells.append(f"{first:.2f} to {last:.2f}")
        print(f"| {beta:g} | {' | '.join(cells)} |")
    print(f"\n{arguments.out}")


if __name__ == "__main__":
    main()
