import struct

import pyarrow as pa
import pytest

from oddsmill.schemas.stored.arrow_message import declares_compression

BATCH = pa.record_batch({"x": pa.array([0] * 1000, pa.int32())})


def stream(compression: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCH.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(BATCH)
    return sink.getvalue().to_pybytes()


def test_compressed_columns_are_told_from_others():
    for compression in ("zstd", "lz4", None):
        content = stream(compression)
        begin = 8 + int.from_bytes(content[4:8], "little")
        assert declares_compression(content, begin) == (compression is not None)
        assert not declares_compression(content, 0)  # the schema's own message


def test_what_is_cut_short_is_no_message():
    content = stream("zstd")
    begin = 8 + int.from_bytes(content[4:8], "little")
    for end in range(begin, begin + 20):
        with pytest.raises(struct.error):
            declares_compression(content[:end], begin)
