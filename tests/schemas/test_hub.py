"""The names of models: what looks like a hub id, and what is neither that nor a folder.

Downloads are tested where they are asked for: tests/train/weights/test_hub.py, tests/pipeline/tokens/.
"""

from functools import partial

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.hub import find_folder, is_hub_id

find = partial(find_folder, setting="model.path", revision_setting="model.revision", files=["*.json"])


@pytest.mark.parametrize("name", ["org/name", "meta-llama/Llama-3.1-8B", "0-hero/Matter-0.1", "a_b/c_d"])
def test_ids_of_the_hub_are_told_by_their_shape(name):
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["name", "a/b/c", "./name", "../name", "/name", "org/", "hf://org/name", "o g/n"])
def test_paths_and_addresses_are_no_ids(name):
    assert not is_hub_id(name)
    with pytest.raises(Refused, match=r"--model\.path=.*: no such folder, and not a hub id such as org/name"):
        find(name, None)


def test_a_local_folder_is_itself_and_has_no_revisions(tmp_path):
    assert find(str(tmp_path), None) == tmp_path
    with pytest.raises(Refused, match=r"--model\.revision=main: .* is a local folder, which has no revisions"):
        find(str(tmp_path), "main")
