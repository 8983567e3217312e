"""The curves of a run as one picture, from its metrics.jsonl."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from oddsmill.train.monitor.metrics import METRICS_NAME

CURVES_NAME = "curves.png"
_PANELS = (
    ("loss", ("loss", "nll_loss")),
    ("mean log-probability of an answer token", ("logps/chosen", "logps/rejected")),
    ("log odds ratio", ("log_odds_chosen",)),
    ("reward accuracy", ("rewards/accuracies",)),
)


def plot_curves(run_dir: str | Path) -> Path:
    """Draws training curves as lines and evaluations as points into `run_dir/curves.png`; returns its path."""
    lines = (Path(run_dir) / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    # Without pyplot: no display is needed, and a notebook's own figures stay as they are.
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for panel, (title, names) in zip(axes.flat, _PANELS, strict=True):
        for color, name in enumerate(names):
            for prefix, style in (("", "-"), ("eval/", "o")):
                points = [(record["step"], record[prefix + name]) for record in records if prefix + name in record]
                if points:
                    panel.plot(*zip(*points, strict=True), style, color=f"C{color}", label=prefix + name)
        panel.set(title=title, xlabel="step")
        if panel.lines:  # of a run that skipped every step there are none
            panel.legend()
    path = Path(run_dir) / CURVES_NAME
    figure.savefig(path, dpi=120)
    return path
