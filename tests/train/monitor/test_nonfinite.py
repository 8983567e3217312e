"""The dump of a step that is not finite. Whole runs that end so: tests/train/test_watched_runs.py."""

import json
import math

import numpy as np

from oddsmill.train.monitor.nonfinite import RowAlone, describe_failure, hex_ids, write_dump

BATCH = {"pair_ids": np.array([[10, 0], [11, 12]], np.uint64)}
VALUES = {"loss": math.nan, "grad_norm": math.inf}


def dumped(tmp_path, alone):
    path = tmp_path / "dump.json"
    write_dump(path, data="rows", step=3, values=VALUES, batch=BATCH, alone=alone)
    return path, json.loads(path.read_text(), parse_constant=lambda name: AssertionError(name))


def test_rows_that_are_not_finite_alone_are_named(tmp_path):
    path, dump = dumped(tmp_path, [RowAlone(1.5, 2.0), RowAlone(1.0, math.inf)])
    assert dump["step"] == 3 and (dump["loss"], dump["grad_norm"]) == ("nan", "inf")
    assert dump["rows"] == [
        {"pairs": [f"{10:016x}"], "loss": 1.5, "grad_norm": 2.0, "finite": True},
        {"pairs": [f"{11:016x}", f"{12:016x}"], "loss": 1.0, "grad_norm": "inf", "finite": False},
    ]
    message = describe_failure(path, step=3, values=VALUES)
    assert f"step 3; pairs of the rows that are not finite alone: {11:016x} {12:016x}. " in message
    assert f"--dump={path}" in message


def test_where_rows_were_not_measured_alone_all_pairs_are_named(tmp_path):
    path, dump = dumped(tmp_path, None)
    assert all(row.keys() == {"pairs"} for row in dump["rows"])
    assert f"pairs of this step: {' '.join(hex_ids(BATCH['pair_ids']))}. " in describe_failure(
        path, step=3, values=VALUES
    )
