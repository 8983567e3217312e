"""The settings of `oddsmill train eval`."""

from oddsmill.schemas.errors import require
from oddsmill.schemas.manifest import Split
from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.compute import Dtype
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.loss import LossName, NllScope
from oddsmill.train.config.model import ModelConfig


@settings()
class EvaluateConfig:
    """Measures a model, or a checkpoint of a run, on a preprocessed split; prints the metrics as JSON."""

    data: str | None = setting(
        "The folder that `oddsmill pipeline run` wrote; null: that of the run, for split=eval its eval_data.",
        default=None,
    )
    split: Split = setting("The split that is measured: train or eval.", default="eval")
    model: ModelConfig | None = setting("Which model is measured; or give run_dir.", default=None)
    run_dir: str | None = setting(
        "The folder of a run. Its data are needed where no others are given.",
        default=None,
    )
    checkpoint: int | None = setting(
        "The step of the run's checkpoint; null: the newest, or the best of a run with load_best_model_at_end.",
        default=None,
        needs=("run_dir",),
    )
    out: str | None = setting(
        "A JSONL file to write, an object a pair: its id, its source, log-probabilities, NLL and lengths.",
        default=None,
    )
    metrics_out: str | None = setting(
        "A JSON file to write the metrics to, which are on standard output in any case.",
        default=None,
    )
    batch_size: int = setting(
        "The rows of a batch, over all devices; it has no part in the metrics.",
        default=8,
        above=0,
    )
    loss: LossName | None = setting(
        "The preference loss; null: as in the run, else the default of a run. Beside another loss than the run's, the "
        "settings below are by default those of a run.",
        default=None,
    )
    beta: float | None = setting(
        "The beta of the loss; null: as in the run, else the default of a run.",
        default=None,
        at_least=0,
    )
    nll_scope: NllScope | None = setting(
        "The tokens of the NLL term; null: as in the run, else the default of a run.",
        default=None,
    )
    simpo_gamma: float | None = setting(
        "The margin of simpo; null: as in the run, else the default of a run.",
        default=None,
        at_least=0,
    )
    cpo_alpha: float | None = setting(
        "The weight of the NLL in simpo and cpo; null: as in the run, else the default of a run.",
        default=None,
        at_least=0,
    )
    label_smoothing: float | None = setting(
        "The label smoothing of simpo and cpo; null: as in the run, else the default of a run.",
        default=None,
        at_least=0,
        below=0.5,
    )
    param_dtype: Dtype | None = setting(
        "The dtype that weights are kept in; null: as in the run, else the default of a run.",
        default=None,
        only_with={"run_dir": (None,)},
    )
    compute_dtype: Dtype | None = setting(
        "The dtype that matrix products take; null: as in the run, else the default of a run.",
        default=None,
        only_with={"run_dir": (None,)},
    )
    mesh: MeshConfig | None = setting(
        "How devices are arranged; null: as in the run, else all along data.",
        default=None,
    )
    distributed: DistributedConfig = setting(
        "How several processes find each other.",
        default_factory=DistributedConfig,
    )

    def check(self) -> None:
        path = self.model.path if self.model else None
        given = f"give either --model.path (a folder or a hub id) or --run_dir (a run; now {self.run_dir})"
        require((path is None) != (self.run_dir is None), "model.path", path, given)
        config = self.model.config if self.model else None
        require(config is None, "model.config", config, "has no weights; leave it out")
        require(self.data is not None or self.run_dir is not None, "data", None, "is needed: the rows to measure on")
