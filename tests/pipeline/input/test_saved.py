"""Folders of `save_to_disk`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.input.parts import numbered_parts, read_batches
from oddsmill.pipeline.input.saved import find_saved_splits
from oddsmill.pipeline.input.sources import find_inputs
from oddsmill.schemas.errors import Refused
from tests import disk_store  # noqa: F401 - serves store://


def read_saved(folder: Path | str, **settings: Any) -> list[tuple[str, int, Any]]:
    inputs = find_inputs(SourceConfig(path=str(folder), **settings))
    return [
        (inputs[row.origin.file].path, row.origin.row, row.values())
        for part in numbered_parts(inputs)
        for batch in read_batches(part)
        for row in batch
    ]


def test_a_dataset_saved_on_disk(tmp_path: Path, triples: Callable):
    rows = triples(50)
    saved = datasets.Dataset.from_list(rows).shuffle(seed=1)
    saved.save_to_disk(tmp_path / "one", num_shards=3)
    assert read_saved(tmp_path / "one") == [(f"{tmp_path}/one/train", n, row) for n, row in enumerate(saved)]
    assert [row for _, row, _ in read_saved(tmp_path / "one", split="train[15:20]")] == [15, 16, 17, 18, 19]
    both = datasets.DatasetDict({"train": saved, "test": datasets.Dataset.from_list(rows[:5])})
    both.save_to_disk(tmp_path / "two")
    found = read_saved(tmp_path / "two", split="test+train[:4%]")
    assert found == [(f"{tmp_path}/two/test", n, row) for n, row in enumerate(rows[:5])] + [
        (f"{tmp_path}/two/train", n, saved[n]) for n in (0, 1)
    ]
    with pytest.raises(Refused, match=r"--source.split=dev: .*two has no such split; there are train, test"):
        read_saved(tmp_path / "two", split="dev")
    with pytest.raises(Refused, match=r"--source.name=x is for a hub dataset"):
        read_saved(tmp_path / "two", name="x")


def test_a_saved_dataset_that_lacks_a_file_is_refused(tmp_path: Path, triples: Callable):
    datasets.Dataset.from_list(triples(9)).save_to_disk(tmp_path / "one", num_shards=2)
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(Refused, match=r"data-00001-of-00002\.arrow: cannot be read"):
        read_saved(tmp_path / "one")


def test_a_dataset_saved_in_a_store(tmp_path: Path, triples: Callable):
    rows = triples(9)
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "one")
    found = read_saved(f"store:/{tmp_path}/one", split="test[2:4]")
    assert found == [(f"store:/{tmp_path}/one/test", n, rows[n]) for n in (2, 3)]
    with pytest.raises(Refused, match=r"--source.path=store:/.*/none: no such file"):
        read_saved(f"store:/{tmp_path}/none")


@pytest.mark.parametrize("content", ["{}", "[]", '{"_data_files": [{}]}'])
def test_a_folder_with_a_state_json_of_another_tool_is_refused(tmp_path: Path, content: str):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(Refused, match="not a folder that save_to_disk wrote"):
        read_saved(tmp_path)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "x/y.arrow", "", "..", None])
def test_a_dataset_names_files_of_its_own_alone(tmp_path: Path, name: str | None):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(Refused, match="which does not lie in it"):
        find_saved_splits(str(tmp_path), split=None)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(Refused, match="which does not lie in it"):
        find_saved_splits(str(tmp_path), split=None)
