"""The JSON beside the arrays notices every altered character."""

import json

import pytest

from oddsmill.train.checkpoint.meta import check_seal, identity_differences, sealed

META = {
    "identity": {"beta": 0.1, "optim": "adamw"},
    "data": {"position": 7},
    "data_order": {"digest": "00ff", "before": "0000"},
    "frozen_digest": None,
    "digest": "ab",
    "params_digest": "cd",
    "notes": {"best": {"value": 0.5, "step": 2}},
}


def test_every_altered_character_is_noticed_or_leaves_the_same_values():
    text = json.dumps(sealed(META))
    assert check_seal(json.loads(text)) == sealed(META)
    refused = 0
    for place in range(len(text)):
        for flip in (1, 2, 16):
            altered = text[:place] + chr(ord(text[place]) ^ flip) + text[place + 1 :]
            try:
                found = check_seal(json.loads(altered))
            except (ValueError, TypeError, AttributeError):
                refused += 1
            else:
                assert found == sealed(META), altered
    assert refused > 2.9 * len(text)


def test_that_of_older_versions_is_taken_as_it_is():
    assert check_seal(META) == META
    with pytest.raises(ValueError, match="its notes are not those saved"):
        check_seal(META | {"another": 1})
    for other in (None, 3, [], "x"):
        with pytest.raises(ValueError, match="its notes are no object"):
            check_seal(META | {"identity": other})


def test_settings_that_differ_are_told_with_both_values():
    own = {"beta": 0.2, "optim": "adamw", "loss": "orpo"}
    assert identity_differences(META["identity"], own) == ["beta: 0.1 -> 0.2"]
