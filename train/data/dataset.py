"""A preprocessed dataset: its folder and what its manifest says."""

from dataclasses import dataclass

from oddsmill.schemas.dataset_files import check_tokenizer_files
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


def open_dataset(folder: str) -> Dataset:
    """Returns the dataset in a folder; its shards are compared with their digests by `verify_shards`.

    Raises:
      Refused: there is no manifest, it is damaged, or the tokenizer beside it is not the one that made the rows.
    """
    manifest = read_manifest(folder)
    check_tokenizer_files(folder, manifest)
    return Dataset(folder, manifest)


def open_train_data(folder: str) -> Dataset:
    """Returns a dataset with rows to train on.

    Raises:
      Refused: as `open_dataset`, or its train split has no rows.
    """
    dataset = open_dataset(folder)
    if not dataset.num_rows("train"):
        raise Refused(f"{folder}: the train split has no rows")
    return dataset
