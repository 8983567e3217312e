import pytest

from oddsmill.schemas.engines.flat import flatten


@pytest.mark.parametrize("texts", [[], [[]], [[1, 2], [], [3]], [[], [2**31 - 1]]])
def test_each_text_has_its_own_ids(texts: list[list[int]]):
    flat = flatten(texts)
    assert [flat.of(number) for number in range(len(texts))] == texts
    assert len(flat.offsets) == len(texts) + 1 and flat.offsets[-1] == len(flat.ids) and flat.ids.itemsize == 4
