"""Names of devices that are not here. Slices that libtpu compiles for: tests/train/planning/test_plan_tpu.py."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.planning.topologies import _SLICES, find_topology


def test_cpus_are_those_that_jax_has_and_their_memory_is_not_known():
    found = find_topology("cpu:1")
    assert [device.platform for device in found.devices] == ["cpu"]
    assert (found.num_processes, found.memory_bytes) == (1, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-15", "nearest are v5e-1, v5e-16"),
        ("cpu:0", "not known"),
        ("b200:8", "for a GPU only where one is"),
        ("RTX4090", "for a GPU only where one is"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_what_is(name, message):
    with pytest.raises(Refused, match=message):
        find_topology(name)


def test_a_slices_name_counts_cores_or_chips_as_google_does():
    assert _SLICES["v5p-128"] == ("v5p", 64) and _SLICES["v4-8"] == ("v4", 4)
    assert _SLICES["v5e-64"] == ("v5e", 64) and _SLICES["v6e-8"] == ("v6e", 8)
    assert "v5p-4096" in _SLICES and "v5e-512" not in _SLICES
