"""The settings of `oddsmill train export`."""

import re

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.compute import ExportDtype
from oddsmill.train.config.devices import DistributedConfig, MeshConfig


@settings()
class ExportConfig:
    """Exports a checkpoint of a run, adapters merged into the weights or by themselves."""

    run_dir: str = setting("The folder of the run; its data are not needed.")
    out: str = setting("The folder to write; new or empty.")
    checkpoint: int | None = setting(
        "The step of the checkpoint; null: the newest, or the best of a run with load_best_model_at_end.",
        default=None,
    )
    adapter: bool = setting(
        "The adapters of a run with lora are written alone, as PEFT has them, for the model that the run started from.",
        default=False,
    )
    dtype: ExportDtype | None = setting(
        "Weights are cast to this dtype; null: they stay as the run keeps them. A weight that float16 cannot hold "
        "(beyond 65504) is refused.",
        default=None,
        only_with={"adapter": (False,)},
    )
    max_shard_size: str = setting(
        "The greatest size of a safetensors file, such as 500MB or 5GB.",
        default="5GB",
        only_with={"adapter": (False,)},
    )
    mesh: MeshConfig | None = setting("How devices are arranged; null: as in the run.", default=None)
    distributed: DistributedConfig = setting(
        "How several processes find each other.",
        default_factory=DistributedConfig,
    )

    def check(self) -> None:
        is_size = re.fullmatch(r"[1-9]\d*(KB|MB|GB|TB)", self.max_shard_size) is not None
        problem = "must be a number of KB, MB, GB or TB, such as 5GB"
        require(is_size, "max_shard_size", self.max_shard_size, problem)
