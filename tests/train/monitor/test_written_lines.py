"""Lines that a run wrote, and whatever else came into the file."""

import json

import pytest

from oddsmill.schemas.console import show_messages
from oddsmill.train.loss.orpo import Orpo
from oddsmill.train.monitor.curves import plot_curves
from oddsmill.train.monitor.metrics import last_evaluation, metrics_at
from oddsmill.train.monitor.samples import side_by_side
from oddsmill.train.monitor.written_lines import read_metrics, read_samples

WHOLE = [{"step": 1, "loss": 2.5, "data_order": "00ff"}, {"step": 2, "eval/loss": 3.5}]
ODD = [
    b"", b"no JSON", b"[1, 2]", b"5", b"null", b'"step"', b'{"loss": 1.0}', b'{"step": null}', b'{"step": "2"}',
    b'{"step": 2.0}', b'{"step": true}', b'{"step": -1}', b'{"step": 1' + b"0" * 400 + b"}", b'{"step": NaN}',
    b'{"step": 1' + b"0" * 5000 + b"}", b'{"step": 3, "loss": NaN}', b'{"step": 3, "loss": Infinity}',
    b'{"step": 3, "loss": 1e999}', b'{"step": 3, "loss": 1e300}', b'{"step": 3, "loss": 1' + b"0" * 400 + b"}",
    b'{"step": 3, "loss": null}',
    b'{"step": 3, "loss": [1.0]}', b'{"step": 3, "loss": true}', b'{"step": 3, "a\xff": 1.0}', b"\x00" * 100,
    b'{"step": 3, "loss": ' + b"[" * 100_000, b"\xef\xbb\xbf{}", '{"step": 3, "lo\u2028ss"'.encode(),
]  # fmt: skip


@pytest.fixture
def odd_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps(line).encode() for line in WHOLE]
    path.write_bytes(b"\n".join([whole[0], *ODD, whole[1], b'{"step": 3, "lo']))
    return path


def test_every_reader_leaves_out_odd_lines_and_says_which(odd_file, capsys):
    show_messages()
    assert list(read_metrics(odd_file)) == WHOLE
    warning = f"warning: {odd_file}: {len(ODD)} lines are not of this run's making and left out (line 2, 3, 4, 5, 6, …)"
    assert capsys.readouterr().out == warning + "\n"
    assert last_evaluation(odd_file) == {"eval/loss": 3.5}
    assert metrics_at(odd_file, 9) == {"data_order": "00ff", "eval/loss": 3.5, "loss": 2.5}
    plot_curves(odd_file, odd_file.with_name("curves.png"), Orpo(beta=0.1))
    assert odd_file.with_name("curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_last_line_that_was_cut_off_is_no_news_and_no_file_is_no_line(tmp_path, capsys):
    show_messages()
    path = tmp_path / "metrics.jsonl"
    assert list(read_metrics(path)) == list(read_samples(path)) == []
    path.write_bytes(json.dumps(WHOLE[0]).encode() + b'\n{"step": 2, "lo')
    assert list(read_metrics(path)) == WHOLE[:1]
    assert capsys.readouterr().out == ""


def test_numbers_that_a_picture_cannot_hold_end_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 2**53 - 1, "loss": 3.4e38},
        {"step": 1, "loss": -3.4e38, "eval/loss": "text"},
        {"step": 2, "loss": 5},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_curves(path, tmp_path / "curves.png", Orpo(beta=0.1))
    assert last_evaluation(path) == {}


def test_samples_that_lack_a_text_are_left_out(tmp_path):
    path = tmp_path / "samples.jsonl"
    whole = {"step": 0, "prompt": "p", "answer": "a", "chosen": "c"}
    odd = [{"step": 0, "prompt": "p"}, {"step": 0, "prompt": 1, "answer": "a"}, {"prompt": "p", "answer": "a"}, []]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*odd, whole]))
    assert list(read_samples(path)) == [whole]
    assert side_by_side(path) == [["prompt  p", "step 0  'a'"]]
