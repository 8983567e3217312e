"""The settings of `oddsmill train plan`: those of a run, and what stands for its data and its devices."""

from dataclasses import fields

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings
from oddsmill.train.config.compute import RematerializationPolicy
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.model import ModelSettings
from oddsmill.train.config.train_config import BetweenStepsSettings, RunSettings, StepSettings


@settings()
class PlanConfig(BetweenStepsSettings, StepSettings, ModelSettings):
    """Compiles the step of a run for devices that are not here, and prints what it takes of each.

    Settings are those of a run; the ones without a part in the step are read and have none in the plan. Weights are
    not needed. With neither mesh nor gradient_checkpointing, meshes and policies are tried in the order of their
    expected speed until one fits.
    """

    data: str | None = setting(
        "The folder that `oddsmill pipeline run` wrote; null: row_length stands for it.", default=None
    )
    run_dir: str | None = setting("It has no part in the plan.", default=None)
    gradient_checkpointing: RematerializationPolicy | None = setting(
        "What of each layer the backward pass computes again, as in a run; null: the first policy that fits.",
        default=None,
    )
    topology: str = setting(
        "The devices: cpu:8, or a TPU slice as Google names it: v5e-64 and v6e-64 have 64 chips, v5p-128 and v4-128 "
        "too, whose names count TensorCores, two a chip."
    )
    row_length: int | None = setting(
        "The slots of a row; null: those of data.",
        default=None,
        above=0,
        only_with={"data": (None,)},
    )
    pairs_per_row: int | None = setting(
        "The most pairs a row holds; null: as in data, or 4. Without data every row is full and has so many, each a "
        "third prompt, a third chosen and a third rejected answer.",
        default=None,
        above=0,
        only_with={"data": (None,)},
    )

    def check(self) -> None:
        require(
            self.data is not None or self.row_length is not None,
            "row_length",
            None,
            "needed without --data, such as 4096",
        )
        require(
            self.row_length is None or self.row_length >= 4 * (self.pairs_per_row or 4),
            "row_length",
            self.row_length,
            "too short for its pairs; give fewer --pairs_per_row",
        )
        self.run_settings(gradient_checkpointing=True)  # checks what depends on the model

    def run_settings(
        self, *, gradient_checkpointing: RematerializationPolicy, mesh: MeshConfig | None = None
    ) -> RunSettings:
        """The settings of the run that is planned, with this policy, and this mesh if one is given."""
        own = {field.name: getattr(self, field.name) for field in fields(RunSettings)}
        return RunSettings(**own | {"mesh": mesh or self.mesh, "gradient_checkpointing": gradient_checkpointing})
