"""The settings of `oddsmill train export`."""

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.config.export import ExportConfig


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_shard_size": "5"}, "--max_shard_size=5: must be a number of KB, MB, GB or TB"),
        ({"max_shard_size": "0GB"}, "--max_shard_size=0GB: must be a number"),
        ({"dtype": "int8"}, "--dtype=int8: expected one of float32, bfloat16, float16 or null"),
        ({"adapter": True, "dtype": "float32"}, "--dtype=float32: has no effect with --adapter=True"),
        ({"adapter": True, "max_shard_size": "1GB"}, "--max_shard_size=1GB: has no effect with --adapter=True"),
    ],
)
def test_what_cannot_be_exported_is_refused(given, message):
    with pytest.raises(Refused) as refusal:
        ExportConfig(run_dir="r", out="o", **given)
    assert message in str(refusal.value)


def test_an_adapter_is_written_as_it_is():
    assert ExportConfig(run_dir="r", out="o", adapter=True).dtype is None
