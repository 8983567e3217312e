import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.schemas.dataset_files import (
    check_shards,
    check_tokenizer_files,
    damaged_shards,
    damaged_tokenizer,
    lacks_files,
    open_shard,
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


@pytest.fixture
def shard(tmp_path: Path) -> str:
    writer = ArrayRecordWriter(str(tmp_path / "x.arrayrecord"), "group_size:1")
    for number in range(7):
        writer.write(b"record %d" % number)
    writer.close()
    return str(tmp_path / "x.arrayrecord")


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Allows the process `more` open files than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < highest:  # the limit is one of numbers, and numbers below the highest may be free
        held.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


def test_records_are_read_and_counted(shard: str):
    assert open_shard(shard, records=7).read([6]) == [b"record 6"]
    with pytest.raises(ValueError, match="it holds 7 records, the manifest says 8"):
        open_shard(shard, records=8)


@pytest.mark.parametrize("content", [b"", b"x", bytes(1 << 17), b"cut"])
def test_another_file_is_damaged(shard: str, content: bytes):
    whole = Path(shard).read_bytes()
    Path(shard).write_bytes(whole[: len(whole) // 2 + 1] if content == b"cut" else content)
    with pytest.raises(ValueError, match=r"\w"):
        open_shard(shard, records=7)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        open_shard(str(tmp_path / "nowhere"))


def test_a_shard_for_which_no_file_is_left_is_not_damaged(shard: str):
    with few_files(0), pytest.raises(OSError, match="Too many open files") as error:
        open_shard(shard)
    assert error.value.errno == errno.EMFILE and lacks_files(error.value)
    assert lacks_files(RuntimeError(f"a worker ended: {error.value}")) and not lacks_files(OSError(errno.EIO, "x"))
    assert open_shard(shard).num_records() == 7
