"""Writes random weights for a job's config.json, in a process of its own, so that JAX does not stay in the caller's."""

import subprocess
import sys
from pathlib import Path

from bench.peers.job import ROOT


def write_weights(folder: Path, *, dtype: str) -> None:
    """Writes the weights. Args: folder: the folder of a job whose data are there."""
    subprocess.run(
        [sys.executable, "-m", "bench.peers.random_weights", str(folder), dtype],
        check=True,
        cwd=ROOT,
    )


def main(folder: Path, dtype: str) -> None:
    from oddsmill.train.config.model import ModelConfig
    from oddsmill.train.config.train_config import TrainConfig
    from oddsmill.train.prepare import prepare
    from oddsmill.train.weights.huggingface import save_params

    model = folder / "model"
    config = TrainConfig(
        data=str(folder / "data"),
        run_dir="-",
        model=ModelConfig(config=str(model / "config.json")),
        param_dtype=dtype,  # type: ignore[arg-type]
        max_steps=1,
    )
    run = prepare(config)
    save_params(run.initial_weights()[0], model, num_layers=run.model.decoder_config.num_hidden_layers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
