"""The settings of `oddsmill train plan`: those of a run, and what stands for its data and its devices."""

from dataclasses import dataclass, fields
from typing import Literal

from oddsmill.schemas.errors import require
from oddsmill.train.config.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig(TrainConfig):
    """Compiles the step of a run for devices that are not here, and prints what it takes of each. Settings are those of
    a run; the ones without a part in the step are read and have none in the plan. Weights are not needed.

    With neither mesh nor gradient_checkpointing, meshes and policies are tried in the order of their expected speed
    until one fits.

    Args:
      topology: the devices: cpu:8, or a TPU slice as Google names it: v5e-64 and v6e-64 have 64 chips, v5p-128 and
        v4-128 too, whose names count TensorCores, two a chip.
      row_length: slots of a row; null: those of data.
      pairs_per_row: the most pairs a row holds; null: as in data, or 4. Without data every row is full and has so
        many, each a third prompt, a third chosen and a third rejected answer.
    """

    data: str = ""
    run_dir: str = ""
    # null: what fits is looked for. A run has true for it.
    gradient_checkpointing: bool | Literal["dots_saveable", "dots_with_no_batch_dims_saveable"] | None = None  # type: ignore[assignment]
    topology: str
    row_length: int | None = None
    pairs_per_row: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.data) or self.row_length is not None, "row_length", None, "needed without --data, such as 4096"
        )
        for name in ("row_length", "pairs_per_row"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be positive")
            require(value is None or not self.data, name, value, f"is that of --data={self.data}; leave it out")
        require(
            self.row_length is None or self.row_length >= 4 * (self.pairs_per_row or 4),
            "row_length",
            self.row_length,
            "too short for its pairs; give fewer --pairs_per_row",
        )

    def run_config(self, **changes: object) -> TrainConfig:
        """The settings of a run, with these in place of its own."""
        settings = {setting.name: getattr(self, setting.name) for setting in fields(TrainConfig)}
        return TrainConfig(**settings | changes)
