"""The settings of `oddsmill train eval`."""

from dataclasses import dataclass, field
from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.schemas.manifest import Split
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.loss import NllScope
from oddsmill.train.config.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measures a model, or a checkpoint of a run, on a preprocessed split; prints the metrics as JSON.

    Args:
      data: the folder that `oddsmill pipeline run` wrote; null: that of the run, for split=eval its eval_data.
      split: train or eval.
      model: which model; or give run_dir.
      run_dir: the folder of a run. Its data and its model must be where they were.
      checkpoint: the step of the run's checkpoint; null: the newest, or the best of a run with load_best_model_at_end.
      out: a JSONL file to write, an object a pair: its id, its source, log-probabilities, NLL and lengths.
      metrics_out: a JSON file to write the metrics to, which are on standard output in any case.
      batch_size: rows at once, over all devices; it has no part in the metrics.
      beta: weight of the odds-ratio term; null: as in the run, else the default of a run.
      nll_scope: tokens of the NLL term; null: as in the run, else the default of a run.
      param_dtype: what weights are kept in; null: as in the run, else the default of a run.
      compute_dtype: what matrix products take; null: as in the run, else the default of a run.
      mesh: how devices are arranged; null: as in the run, else all along data.
      distributed: how several processes find each other.
    """

    data: str | None = None
    split: Split = "eval"
    model: ModelConfig | None = None
    run_dir: str | None = None
    checkpoint: int | None = None
    out: str | None = None
    metrics_out: str | None = None
    batch_size: int = 8
    beta: float | None = None
    nll_scope: NllScope | None = None
    param_dtype: Literal["float32", "bfloat16"] | None = None
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    mesh: MeshConfig | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        path = self.model.path if self.model else None
        given = f"give either --model.path (a folder or a hub id) or --run_dir (a run; now {self.run_dir})"
        require((path is None) != (self.run_dir is None), "model.path", path, given)
        require(self.data is not None or self.run_dir is not None, "data", None, "is needed: the rows to measure on")
        require(self.batch_size > 0, "batch_size", self.batch_size, "must be positive")
        require(self.beta is None or self.beta >= 0, "beta", self.beta, "must not be negative")
        if self.run_dir is None:
            require(self.checkpoint is None, "checkpoint", self.checkpoint, "is of a run; give it by --run_dir")
        else:
            for name in ("param_dtype", "compute_dtype"):
                require(getattr(self, name) is None, name, getattr(self, name), "is the run's own; leave it out")
