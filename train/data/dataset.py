"""A preprocessed dataset: its folder and what its manifest says."""

from dataclasses import dataclass

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, Split, read_manifest


@dataclass(frozen=True)
class Dataset:
    """A folder that `oddsmill pipeline run` wrote, and its manifest."""

    folder: str
    manifest: Manifest

    def num_rows(self, split: Split) -> int:
        """Returns the rows of a split; 0 where the dataset has no such split."""
        return self.manifest.splits[split].rows if split in self.manifest.splits else 0


def open_train_data(folder: str) -> Dataset:
    """Returns a dataset with rows to train on.

    Raises:
      Refused: there is no manifest, or its train split has no rows.
    """
    dataset = Dataset(folder, read_manifest(folder))
    if not dataset.num_rows("train"):
        raise Refused(f"{folder}: the train split has no rows")
    return dataset
