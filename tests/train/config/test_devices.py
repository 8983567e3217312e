"""Settings of devices and processes."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.devices import DistributedConfig


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator_address": "host:1"}, "num_processes and --distributed.process_id must be given too"),
        ({"num_processes": 2, "process_id": 0}, "coordinator_address must be given too"),
        ({"coordinator_address": "host", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator_address": "host:1", "num_processes": 2, "process_id": 2}, "must be from 0 to 1"),
        ({"coordinator_address": "host:1", "num_processes": 0, "process_id": 0}, "num_processes=0: must be positive"),
        ({"process_id": -1, "detect_cluster": True}, "--distributed.process_id=-1"),
    ],
)
def test_half_given_and_wrong_settings_are_refused(given, message):
    with pytest.raises(Refused, match=message):
        DistributedConfig(**given)


def test_a_cluster_says_what_is_not_given():
    assert DistributedConfig(process_id=1, detect_cluster=True).num_processes is None


def test_a_run_may_go_on_on_other_devices(make):
    facts = type(make()).__dataclass_fields__
    assert all(facts[name].metadata["facts"].may_change for name in ("mesh", "distributed"))
