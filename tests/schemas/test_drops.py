import pickle

from oddsmill.schemas.drops import Dropped, DropReason


def test_every_reason_has_a_meaning_of_its_own_and_survives_the_way_to_a_worker():
    assert len({reason.meaning for reason in DropReason}) == len(DropReason) and all(r.meaning for r in DropReason)
    assert all(pickle.loads(pickle.dumps(reason)) is reason is DropReason(str(reason)) for reason in DropReason)


def test_a_drop_says_its_reason_and_detail():
    assert str(Dropped(DropReason.TIE, "1 for each")) == "tie: 1 for each"
