"""The curves of a run as one picture, from its metrics.jsonl."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from oddsmill.schemas.files import publish_file
from oddsmill.train.loss.pairs import PreferenceLoss, token_logp_names
from oddsmill.train.monitor.sinks import explain_write_errors
from oddsmill.train.monitor.written_lines import read_metrics


def plot_curves(metrics: Path, picture: Path, loss: PreferenceLoss) -> None:
    """Draws the training curves of a metrics.jsonl as lines and its evaluations as points.

    Args:
      picture: the PNG file to write.
      loss: names the metrics that are drawn.

    Raises:
      RunFailed: the picture cannot be written.
    """
    panels = (
        ("loss", ("loss", "nll_loss")),
        ("mean log-probability of an answer token", token_logp_names(loss)),
        *((title, (name,)) for name, title in loss.headline.items()),
        ("reward accuracy", ("rewards/accuracies",)),
    )
    logged = list(read_metrics(metrics))
    # Without pyplot: no display is needed, and a notebook's own figures stay as they are.
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, math.ceil(len(panels) / 2))
    for panel, (title, names) in zip(axes.flat, panels, strict=False):
        for color, name in enumerate(names):
            for prefix, style in (("", "-"), ("eval/", "o")):
                values = [(line["step"], line.get(prefix + name)) for line in logged]
                points = [(step, value) for step, value in values if isinstance(value, int | float)]
                if points:
                    panel.plot(*zip(*points, strict=True), style, color=f"C{color}", label=prefix + name)
        panel.set(title=title, xlabel="step")
        if panel.lines:  # a run that skipped every step has none
            panel.legend()
    with explain_write_errors(picture), publish_file(picture, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
