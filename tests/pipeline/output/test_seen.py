"""The sums over what readers and parsers have seen."""

import random

from oddsmill.pipeline.formats import keys
from oddsmill.pipeline.output.seen import Seen, add_seen, describe_not_read, see_columns


def test_the_sums_do_not_depend_on_how_the_parts_are_grouped():
    parts = [
        Seen({0: 2}, keys.FINGERPRINT_MODULUS - 1),
        Seen({0: 1, 3: 2}, 5, {3: 1}, {"id": 2}),
        Seen(extra_pairs={0: 2, 3: 1}, not_read={"id": 1, "system": 4}),
    ]
    whole = Seen({0: 3, 3: 2}, 4, {3: 2, 0: 2}, {"id": 3, "system": 4})
    assert add_seen(parts) == add_seen(parts[::-1]) == add_seen([add_seen(parts[:2]), parts[2]]) == whole
    assert add_seen([]) == Seen()


def test_of_columns_without_end_the_first_are_counted_exactly_on_whatever_workers():
    draw = random.Random(0)
    batches = [{f"key {draw.randrange(5000)}": 1 for _ in range(300)} for _ in range(30)]
    exact = {name: sum(batch.get(name, 0) for batch in batches) for batch in batches for name in batch}
    parts = [Seen(not_read=see_columns(batch)) for batch in batches]
    total = add_seen([add_seen(parts[:11]), add_seen(parts[11:])])
    assert dict(total.not_read) == dict(sorted(exact.items())[:1000])


def test_a_name_that_utf8_cannot_hold_is_written_out():
    assert see_columns({"a\ud800": 1, "a\\ud800": 2}) == {"a\\ud800": 3}


def test_the_fullest_columns_come_first():
    assert describe_not_read({"a": 1, "system": 1234, "": 2}) == "system (1,234 rows), '' (2 rows), a (1 row)"
    assert describe_not_read({"a": 3}, of=64) == "a (3 rows), of 64 rows looked at"
    assert describe_not_read({f"{n:02}": 1 for n in range(14)}).endswith("11 (1 row), 2 more columns")
