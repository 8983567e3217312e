"""Which ids end an answer by the files of a model, and the generation_config.json of an export."""

import json

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import TokenizerSummary
from oddsmill.train.weights.generation_config import (
    exported_generation_config,
    read_generation_config,
    stop_ids,
)
from oddsmill.train.weights.model_files import read_model_files
from tests.train.decoders import TINY, VOCAB_SIZE


def write(folder, content):
    (folder / "generation_config.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_the_ends_of_both_configs_count_one_or_several(tmp_path):
    assert stop_ids(tmp_path, {"eos_token_id": [1, 2]}) == {1, 2}
    write(tmp_path, {"eos_token_id": [7, 9]})
    assert stop_ids(tmp_path, {"eos_token_id": 5}) == {5, 7, 9}
    assert stop_ids(tmp_path, {"eos_token_id": None}) == {7, 9}


@pytest.mark.parametrize("wrong", ["1", [[1]], True, [True], 1.5, {}, 2**31])
def test_ids_that_are_none_are_refused_where_the_model_is_read(tmp_path, wrong):
    """By the name of the file, before a step is taken: the export, which needs them, comes after the last."""
    for name, other in (("config.json", "generation_config.json"), ("generation_config.json", "config.json")):
        content = TINY if name == "config.json" else {}
        (tmp_path / "config.json").write_text(json.dumps(TINY))
        write(tmp_path, {})
        (tmp_path / name).write_text(json.dumps(content | {"eos_token_id": wrong}))
        with pytest.raises(Refused) as caught:
            read_model_files(tmp_path, disable_dropout=True)
        assert f"{tmp_path / name}: eos_token_id=" in str(caught.value) and str(tmp_path / other) not in str(
            caught.value
        )


@pytest.mark.parametrize("content", ["{", "[]", "", '{"eos_token_id": 1, "eos_token_id": 2}', "[" * 10**5, "\ud800"])
def test_a_file_that_is_no_object_is_refused_where_the_model_is_read(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "generation_config.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(Refused, match=r"generation_config\.json is damaged .*correct or remove it"):
        read_model_files(tmp_path, disable_dropout=True)


@pytest.mark.parametrize(
    ("stored", "config", "expected"),
    [
        (None, {}, {"eos_token_id": 1, "pad_token_id": 0}),
        (None, {"bos_token_id": 3, "eos_token_id": [1]}, {"bos_token_id": 3, "eos_token_id": [1], "pad_token_id": 0}),
        (None, {"eos_token_id": 2}, {"eos_token_id": [2, 1], "pad_token_id": 0}),
        ({"top_p": 0.9}, {}, {"top_p": 0.9, "eos_token_id": 1}),
        ({"eos_token_id": 2}, {"eos_token_id": 1}, {"eos_token_id": [2, 1]}),
    ],
)  # fmt: skip
def test_a_generation_ends_where_the_trained_answers_ended(tmp_path, stored, config, expected):
    if stored is not None:
        write(tmp_path, stored)
    tokenizer = TokenizerSummary(
        sha256={}, chat_template_sha256=None, bos_id=None, eos_id=1, pad_id=0, vocab_size=VOCAB_SIZE
    )
    assert exported_generation_config(tmp_path, config, tokenizer) == expected


def test_of_a_link_to_elsewhere_only_the_special_ids_are_taken(tmp_path):
    """Another file of this machine would go out with the model; in a folder of links to another it is the model's."""
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", {"eos_token_id": 7, "secret": "hunter2"})
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    model = tmp_path / "model"
    model.mkdir()
    for name in ("generation_config.json", "config.json"):
        (model / name).symlink_to(tmp_path / "elsewhere" / name)
    assert read_generation_config(model) == {"eos_token_id": 7, "secret": "hunter2"}
    (model / "config.json").unlink()
    (model / "config.json").write_text("{}")
    assert read_generation_config(model) == {"eos_token_id": 7}
