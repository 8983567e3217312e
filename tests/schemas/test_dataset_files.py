from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from oddsmill.schemas.dataset_files import (
    check_shards,
    check_tokenizer_files,
    damaged_shards,
    damaged_tokenizer,
)
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest
from oddsmill.train.data.dataset import open_train_data
from tests.datasets import packed, random_pairs, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Manifest]:
    pairs = random_pairs(np.random.default_rng(0), 6, vocab_size=9)
    return tmp_path / "data", write_dataset(
        tmp_path / "data", {"train": packed(pairs, 20)}, row_length=20, vocab_size=9
    )


def test_a_missing_a_cut_and_an_altered_shard_are_each_found(dataset: tuple[Path, Manifest]):
    folder, manifest = dataset
    shard = folder / manifest.splits["train"].shards[0].name
    whole = shard.read_bytes()
    check_shards(folder, manifest)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not list(damaged_shards(folder, manifest, digests=False))
    with pytest.raises(Refused, match=r"was altered.*Run the preprocessing"):
        check_shards(folder, manifest)
    shard.write_bytes(whole[:-1])
    with pytest.raises(Refused, match=f"has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        check_shards(folder, manifest)
    shard.unlink()
    with pytest.raises(Refused, match="is missing"):
        check_shards(folder, manifest)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", b"{}", "tokenizer.json was altered"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer_config.json", b"{}", "tokenizer_config.json is none of the files that made the rows"),
        ("chat_template.jinja", b"{{ 1 }}", "chat_template.jinja is none of the files"),
        ("additional_chat_templates/tool_use.jinja", b"", "tool_use.jinja is none of the files"),
        ("README.md", b"notes", None),
    ],
)
def test_a_tokenizer_that_did_not_make_the_rows_is_refused(
    dataset: tuple[Path, Manifest], name: str, content: bytes | None, problem: str | None
):
    folder, manifest = dataset
    path = folder / "tokenizer" / name
    if content is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(Refused, match=f"{problem}.*Run the preprocessing") if problem else nullcontext():
        check_tokenizer_files(folder, manifest)
    with pytest.raises(Refused, match=problem) if problem else nullcontext():
        open_train_data(str(folder))
    allowed = list(damaged_tokenizer(folder / "tokenizer", manifest, further=[name]))  # what stands in a run's folder
    assert bool(allowed) == (name == "tokenizer.json")
