"""One process alone, as nearly all runs are."""

import pytest

from oddsmill.train.parallel.coordination import coordination_client, is_joined, num_processes, process_index


def test_a_process_alone_is_the_first_of_one_and_has_no_service():
    assert not is_joined() and num_processes() == 1 and process_index() == 0
    with pytest.raises(AssertionError):
        coordination_client()
