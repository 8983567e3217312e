"""The inventory of a model folder's safetensors: what does not fit together is refused by name; the writer."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oddsmill.schemas.errors import Refused
from oddsmill.train.weights.huggingface import save_params
from oddsmill.train.weights.safetensors_files import listed, stored_tensors, write_tensors
from tests.train.decoders import decoder_config, split_decoder

CONFIG = decoder_config()


@pytest.fixture
def saved(tmp_path):
    """A folder with the weights of CONFIG in one file."""
    save_params(split_decoder(CONFIG)[1], tmp_path, num_layers=CONFIG.num_hidden_layers)
    return tmp_path


def refusal(folder):
    with pytest.raises(Refused) as caught:
        stored_tensors(folder)
    return str(caught.value)


def test_every_tensor_is_named_with_its_dtype_and_shape_and_read_in_parts(saved):
    found, expected = stored_tensors(saved), load_file(saved / "model.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in expected.items()}
    assert {tensor.dtype for tensor in found.values()} == {"F32"}
    part = (slice(3, 9), slice(2, 5))
    np.testing.assert_array_equal(found["lm_head.weight"].read(part), expected["lm_head.weight"][part])


def test_a_file_that_is_cut_short_between_the_inventory_and_the_reading_is_refused(saved):
    tensor = stored_tensors(saved)["lm_head.weight"]
    tensor.file.write_bytes(tensor.file.read_bytes()[:-100])
    with pytest.raises(Refused, match="is damaged, cut short"):
        tensor.read((slice(0, 2),))


def test_tensors_are_fetched_one_by_one_in_the_same_order_by_writers_and_others(tmp_path):
    tensors = {
        "b": ((2, 300), np.dtype(np.float32)),
        "a": ((400,), np.dtype(jnp.bfloat16)),
        "c": ((300,), np.dtype(np.float32)),
    }
    values = {name: np.ones(shape, dtype) for name, (shape, dtype) in tensors.items()}
    orders = []
    for is_writer in (True, False):
        folder = tmp_path / str(is_writer)
        folder.mkdir()
        order = []

        def fetch(name, order=order):
            order.append(name)
            return values[name]

        write_tensors(folder, tensors, fetch, max_shard_size="2KB", is_writer=is_writer)
        orders.append(order)
    assert orders[0] == orders[1] and sorted(orders[0]) == ["a", "b", "c"]
    assert not list((tmp_path / "False").iterdir())
    index = json.loads((tmp_path / "True" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors) and index["metadata"]["total_size"] == 2400 + 800 + 1200
    stored = stored_tensors(tmp_path / "True")
    for name, value in values.items():
        whole = tuple(slice(0, size) for size in value.shape)
        np.testing.assert_array_equal(stored[name].read(whole), value)


def test_names_of_layers_are_listed_as_one_and_long_lists_are_cut():
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
    assert listed([*names, "model.norm.weight"]) == "model.layers.{0,1,2}.mlp.up_proj.weight; model.norm.weight"
    assert listed([f"w{number}" for number in range(5)], limit=3) == "w0; w1; w2; and 2 more kinds"


def test_weights_that_are_not_there_are_refused(tmp_path):
    assert "lacks model.safetensors" in refusal(tmp_path)
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    assert "pytorch_model-00001-of-00002.bin alone" in refusal(tmp_path)
    assert "save_pretrained" in refusal(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "holds a PEFT adapter without its model; merge it" in refusal(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_refused(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file} is damaged" in refusal(saved) and "fetch it again" in refusal(saved)


def test_an_altered_header_is_refused_or_names_the_same_numbers(tmp_path):
    """Lengths, offsets, shapes and types are compared with each other; another name is a tensor that does not fit."""
    tensors = {f"t{index}": np.arange(4 * (3 + index), dtype=np.float32).reshape(4, -1) for index in range(3)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    values = [
        None,
        -1,
        0,
        2**63,
        2**64,
        1e400,
        "x",
        [],
        {},
        [2**40, 2**40],
        [0, 10**12],
        [0, 0],
        True,
        "F64",
        "F8_E4M3",
    ]
    files = [whole[:cut] for cut in (0, 7, 8, 40, len(whole) - 1)]
    files += [size.to_bytes(8, "little") + whole[8:] for size in (0, length - 1, length + 1, 2**40, 2**64 - 1)]
    files += [len(raw).to_bytes(8, "little") + raw + body for raw in (b"[]", b"[" * 9000, b"\xff")]
    for name in tensors:
        for field in ("dtype", "shape", "data_offsets"):
            others = [header[other][field] for other in tensors]
            for value in [*values, *others]:
                raw = json.dumps(header | {name: header[name] | {field: value}}).encode()
                files.append(len(raw).to_bytes(8, "little") + raw + body)
    refused = 0
    for content in files:
        path.write_bytes(content)
        try:
            for name, stored in stored_tensors(tmp_path).items():
                np.testing.assert_array_equal(stored.read((slice(None),)), tensors[name])
        except Refused:
            refused += 1
    assert refused == len(files) - 9 - 6  # each of nine fields got its own value once, the dtypes twice more


def test_a_pointer_of_git_lfs_is_refused(saved):
    (saved / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(saved)


def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path):
    save_params(split_decoder(CONFIG)[1], tmp_path, num_layers=CONFIG.num_hidden_layers, max_shard_size="4KB")
    path = tmp_path / "model.safetensors.index.json"
    right = json.loads(path.read_text())
    first, second, *_ = shards = sorted(set(right["weight_map"].values()))
    assert len(shards) > 2
    name = next(name for name, shard in right["weight_map"].items() if shard == first)

    def refusal_of(change):
        index = json.loads(json.dumps(right))
        change(index["weight_map"])
        path.write_text(json.dumps(index))
        return refusal(tmp_path)

    assert f"{name} is not in {second} but in {first}" in refusal_of(lambda entries: entries.update({name: second}))
    assert f"model.no is not in {first}" in refusal_of(lambda entries: entries.update({"model.no": first}))
    assert f"{name} of {first} is not in the index" in refusal_of(lambda entries: entries.pop(name))
    missing = refusal_of(lambda entries: entries.update({name: "model-00009-of-00002.safetensors"}))
    assert "lacks model-00009-of-00002.safetensors" in missing
    for strange in (5, None, ["a"], "../" + first):
        message = refusal_of(partial(dict.update, **{name: strange}))
        assert f"({json.dumps(strange)} is not the name of a file)" in message
    for damaged in ("{}", "[1]", '{"weight_map": 5}', "{"):
        path.write_text(damaged)
        assert "index.json is damaged" in refusal(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    """The index names one of them; another reader would take the other."""
    save_params(split_decoder(CONFIG)[1], tmp_path, num_layers=CONFIG.num_hidden_layers, max_shard_size="4KB")
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor + 1}, second)
    assert f"{name} is in {first.name} and in {second.name}" in refusal(tmp_path)
