import pickle

import pytest

from oddsmill.pipeline.drops import Dropped, DropReason


@pytest.mark.parametrize("reason", DropReason)
def test_every_reason_has_a_meaning_of_its_own(reason: DropReason):
    assert reason.meaning
    assert [other for other in DropReason if other.meaning == reason.meaning] == [reason]


def test_a_reason_is_stored_under_its_name():
    """The names stand in manifests: another order, or another name, would not read them."""
    assert all(reason == reason.name.lower() for reason in DropReason)


def test_a_drop_says_its_reason_and_what_is_wrong():
    dropped = Dropped(DropReason.TIE, "both scores are 3")
    assert str(dropped) == "tie: both scores are 3"
    assert DropReason(dropped.reason) is DropReason.TIE and dropped.detail == "both scores are 3"


def test_a_reason_survives_the_way_between_workers():
    assert pickle.loads(pickle.dumps(DropReason.BAD_ROLES)) is DropReason.BAD_ROLES
