"""Settings of the loss."""

import pytest

from oddsmill.schemas.errors import Refused


def test_without_the_odds_ratio_term_it_is_fine_tuning_on_the_chosen_answers(make):
    assert make(beta=0.0).beta == 0
    with pytest.raises(Refused, match=r"--beta=-0.1: must not be negative"):
        make(beta=-0.1)


def test_the_nll_is_over_one_of_two_scopes(make):
    with pytest.raises(Refused, match="--nll_scope=prompt: expected one of full, response"):
        make(nll_scope="prompt")
