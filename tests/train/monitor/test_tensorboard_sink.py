"""An event file, read back by the format's own definition; a full disk ends the call that meets it."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from oddsmill.schemas.errors import RunFailed
from oddsmill.train.monitor.tensorboard_sink import TensorboardSink
from tests.full_disks import files_end_at


def events_in(folder):
    (path,) = folder.iterdir()
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + length]
        checksums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert checksums == (masked_crc32c(content[:8]), masked_crc32c(body))
        events.append(Event.FromString(body))
        content = content[16 + length :]
    return events


def test_metrics_and_samples_are_on_the_disk_when_the_call_returns(tmp_path):
    sink = TensorboardSink(tmp_path / "tensorboard", first_step=4)
    sink.write(5, {"loss": 1.5, "rewards/accuracies": 1, "nan": float("nan"), "data_order": "00ff"})
    sink.write_samples(5, [{"step": 5, "prompt": "p", "answer": "a"}])
    version, start, metrics, samples = events_in(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2" and (start.step, start.session_log.status) == (5, 1)
    assert {value.tag: value.simple_value for value in metrics.summary.value} == {"loss": 1.5, "rewards/accuracies": 1}
    (text,) = samples.summary.value
    assert (text.tag, text.tensor.string_val[0]) == ("samples/0/text_summary", b"**prompt**\n\np\n\n**answer**\n\na")
    assert metrics.step == samples.step == 5 and metrics.wall_time > 1.7e9
    sink.close()


def test_a_second_start_in_the_same_second_loses_nothing_of_the_first(tmp_path):
    for step in (1, 2):
        sink = TensorboardSink(tmp_path, first_step=0)
        sink.write(step, {"loss": 1.0})
        sink.close()
    events = [event for path in sorted(tmp_path.iterdir()) for event in [path.read_bytes().count(b"loss")]]
    assert sum(events) == 2


def test_a_full_disk_is_told_by_the_call_that_meets_it_and_closing_waits_for_nothing(tmp_path):
    sink = TensorboardSink(tmp_path, first_step=0)
    problem = r"events\.out\.tfevents.* cannot be written \(File too large\)"
    with files_end_at(300), pytest.raises(RunFailed, match=problem):
        sink.write(1, {f"metric {number}": 1.0 for number in range(100)})
    sink.close()
