"""The curves of a run as one picture, from its metrics.jsonl."""

import json
import math
from pathlib import Path

from matplotlib.figure import Figure

from oddsmill.train.loss.pairs import PreferenceLoss, token_logp_names


def plot_curves(metrics: Path, picture: Path, loss: PreferenceLoss) -> None:
    """Draws the training curves of a metrics.jsonl as lines and its evaluations as points.

    Args:
      picture: the PNG file to write.
      loss: names the metrics that are drawn.
    """
    panels = (
        ("loss", ("loss", "nll_loss")),
        ("mean log-probability of an answer token", token_logp_names(loss)),
        *((title, (name,)) for name, title in loss.headline.items()),
        ("reward accuracy", ("rewards/accuracies",)),
    )
    logged = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    # Without pyplot: no display is needed, and a notebook's own figures stay as they are.
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, math.ceil(len(panels) / 2))
    for panel, (title, names) in zip(axes.flat, panels, strict=False):
        for color, name in enumerate(names):
            for prefix, style in (("", "-"), ("eval/", "o")):
                points = [(line["step"], line[prefix + name]) for line in logged if prefix + name in line]
                if points:
                    panel.plot(*zip(*points, strict=True), style, color=f"C{color}", label=prefix + name)
        panel.set(title=title, xlabel="step")
        if panel.lines:  # a run that skipped every step has none
            panel.legend()
    figure.savefig(picture, dpi=120)
