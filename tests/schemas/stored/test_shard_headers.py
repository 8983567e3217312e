"""The memory that records take is known from the headers of a shard, wherever these lie."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from oddsmill.schemas.dataset_files import open_shard
from oddsmill.schemas.record import MAX_TOKEN_ID, Pair, encode_row, make_row
from oddsmill.schemas.stored.shard_headers import check_record_sizes, largest_record

OURS = "group_size:1,zstd:3"


def write(path: Path, records: list[bytes], options: str = OURS) -> str:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


@pytest.mark.parametrize("options", [OURS, "group_size:1,uncompressed"])
def test_headers_are_found_wherever_blocks_end(tmp_path: Path, options: str):
    generator = np.random.default_rng(0)
    limit = largest_record(1)
    # Records of 8 bytes apart around the end of a block: some header begins at it, some lie across it.
    for sizes in ([], [5], [100] * 400, *([8 * n] + [limit] * 40 for n in range(0, 100, 7))):
        path = write(tmp_path / "shard", [generator.bytes(size) for size in sizes], options)
        check_record_sizes(path, row_length=1)
        with pytest.raises(ValueError, match=f"record {len(sizes)} takes more than the 8,208 bytes of the largest row"):
            check_record_sizes(
                write(tmp_path / "shard", [*map(generator.bytes, sizes), bytes(limit + 1)], options), row_length=1
            )


def test_the_largest_rows_are_within_the_bound():
    vocabulary = MAX_TOKEN_ID + 1
    small = Pair(prompt=[1], chosen=[1], rejected=[1], id=1)
    runs = [(2 * n, 2 * n + 1) for n in range(20_000)]
    long = Pair(
        prompt=[1], chosen=[1] * 40_001, rejected=[1] * 40_001, id=1, unscored_chosen=runs, unscored_rejected=runs
    )
    for pairs in ([small], [small] * 1000, [long]):
        row = make_row(pairs, row_length=sum(map(len, pairs)), pad_id=0, vocab_size=vocabulary)
        assert len(encode_row(row)) <= largest_record(len(row.tokens))


def test_a_small_file_that_decompresses_to_much_is_refused_before_it_takes_memory(tmp_path: Path):
    path = write(tmp_path / "shard", [b"record", bytes(1 << 26)])
    assert os.path.getsize(path) == 1 << 17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"record 1 takes more than .* made to do harm"):
        check_record_sizes(path, row_length=4096)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 14  # KiB


def test_chunks_of_other_kinds_are_refused(tmp_path: Path):
    for options in ("group_size:2", "group_size:1,transpose", "group_size:1,brotli:5"):
        with pytest.raises(ValueError, match=r"record 0 is not alone in its chunk|not compressed as|no shard"):
            check_record_sizes(write(tmp_path / "shard", [b"a", b"b"], options), row_length=9)


def test_whatever_is_altered_is_refused_or_the_records_are_found(tmp_path: Path):
    """The reader checks hashes, which one who makes a shard can make, too: here they are not compared."""
    whole = Path(write(tmp_path / "shard", [bytes([n]) * 100 for n in range(200)])).read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for place in generator.choice(np.flatnonzero(np.frombuffer(whole, np.uint8)), 400).tolist():
        (tmp_path / "shard").write_bytes(whole[:place] + generator.bytes(1) + whole[place + 1 :])
        try:
            check_record_sizes(str(tmp_path / "shard"), row_length=100)
        except ValueError:
            refused += 1
    assert 20 < refused < 380  # what stands in records is no header


@pytest.mark.parametrize("content", [b"", b"x", bytes(1 << 16), bytes(1 << 17), bytes(range(256)) * 512])
def test_another_file_is_no_shard(tmp_path: Path, content: bytes):
    (tmp_path / "shard").write_bytes(content)
    with pytest.raises(ValueError, match="no shard"):
        check_record_sizes(str(tmp_path / "shard"), row_length=9)
    with pytest.raises(FileNotFoundError):
        check_record_sizes(str(tmp_path / "nowhere"), row_length=9)


def test_a_shard_that_passes_is_read(tmp_path: Path):
    path = write(tmp_path / "shard", [b"record"])
    check_record_sizes(path, row_length=1)
    assert open_shard(path, records=1).read([0]) == [b"record"]
