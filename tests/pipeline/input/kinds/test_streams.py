"""Bytes and lines of text files, compressed or not."""

import gzip
import io
from pathlib import Path

import pytest

from oddsmill.pipeline.input.kinds import streams
from oddsmill.pipeline.input.kinds.kind import Compression
from tests.pipeline.input.files import zstd


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_a_stream_gives_the_decompressed_lines(tmp_path: Path, compression: Compression | None):
    content = b"one\r\n\ntwo\rthree\n" * 100_000 + b"last"
    packed = {None: content, "gzip": gzip.compress(content, 1), "zstd": zstd(content)}[compression]
    (tmp_path / "file").write_bytes(packed)
    with streams.open_stream(str(tmp_path / "file"), compression) as file:
        assert b"".join(iter(lambda: streams.read_line(file), b"")) == content
    with streams.open_stream(str(tmp_path / "file"), compression) as file:
        assert [streams.read_line(file) for _ in range(3)] == [b"one\r\n", b"\n", b"two\rthree\n"]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damage_shows_when_it_is_read_and_as_one_of_the_known_exceptions(tmp_path: Path, compression: Compression):
    content = bytes(range(256)) * 1000
    packed = gzip.compress(content) if compression == "gzip" else zstd(content)
    (tmp_path / "file").write_bytes(packed[: len(packed) // 2])
    with streams.open_stream(str(tmp_path / "file"), compression) as file, pytest.raises(streams.DAMAGE):
        list(iter(lambda: file.read(1 << 10), b""))


def test_a_line_without_end_is_given_up_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "LONGEST_ROW", 100)
    file = io.BytesIO(b"x" * 99 + b"\n" + b"x" * 1000)
    assert streams.read_line(file) == b"x" * 99 + b"\n"
    with pytest.raises(OSError, match="a line of more than"):
        streams.read_line(file)
    assert file.tell() == 200
