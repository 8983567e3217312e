"""Altered model folders: refused by name, or the model that their files describe; never a traceback, never another one.

A case takes one of the tiny models of tests/golden, adds a tokenizer, and alters one or two of its files. `prepare` and
the loading of weights, a generation's reading of tokenizer and ids, and what an export copies then read it.
"""

import contextlib
import json
import os
import random
import shutil
import struct
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from oddsmill.schemas.chat.identity import ids_sha256
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import find_ending
from oddsmill.schemas.text.printable import printable
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.prepare import prepare
from oddsmill.train.weights.generation_config import exported_generation_config, stop_ids
from oddsmill.train.weights.tokenizer_files import export_tokenizer
from tests.campaign.altered_json import altered_bytes, altered_document
from tests.campaign.child import child
from tests.campaign.harness import Attack, Attempt, Broken, Case
from tests.datasets import adopt_tokenizer, edit_manifest, packed, random_pairs, write_dataset

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "golden" / "models"
VOCAB_SIZE, ROW_LENGTH = 256, 32
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def make_bases(folder: Path) -> list[Path]:
    """Makes the data, and a whole folder of each model: of one file or of several, of either version's config.json."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    rows = packed(random_pairs(np.random.default_rng(0), 20, vocab_size=VOCAB_SIZE), ROW_LENGTH)
    write_dataset(folder / "data", {"train": rows}, row_length=ROW_LENGTH, vocab_size=VOCAB_SIZE, eos_id=2)
    for path in tokenizer.iterdir():
        shutil.copy(path, folder / "data" / "tokenizer")
    adopt_tokenizer(folder / "data")
    known = {"ids_sha256": ids_sha256(tokenizer), "bos_id": 1, "adds_bos": True}
    edit_manifest(folder / "data", lambda fields: fields["tokenizer"].update(known))
    bases = []
    for number, golden in enumerate(sorted(MODELS.iterdir())):
        base = folder / "bases" / golden.name
        base.mkdir(parents=True)
        shutil.copy(golden / ("config.json" if number % 2 else "config_v4.json"), base / "config.json")
        for path in tokenizer.iterdir():
            shutil.copy(path, base)
        if number % 3:
            shutil.copy(golden / _WEIGHTS, base)
        else:
            _write_in_shards(load_file(golden / _WEIGHTS), base)
        eos = {"eos_token_id": [2], "pad_token_id": 0, "temperature": 0.7}
        (base / "generation_config.json").write_text(json.dumps(eos))
        bases.append(base)
    return bases


def make_tokenizer(folder: Path) -> Path:
    """Makes a byte-level tokenizer of 256 ids with a chat template and the files that older tools read."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=special, initial_alphabet=list("abcdefghijklmnopqrst"), show_progress=False
    )
    tokenizer.train_from_iterator(["abc abd abe abf fee eel tale late slate"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return folder


def _write_in_shards(tensors: dict[str, np.ndarray], folder: Path) -> None:
    names = sorted(tensors)
    weight_map = {}
    for number in range(3):
        shard = f"model-{number + 1:05d}-of-00003.safetensors"
        mine = names[number::3]
        save_file({name: tensors[name] for name in mine}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(mine, shard)
    size = sum(tensor.nbytes for tensor in tensors.values())
    (folder / _INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))


def alter(rng: random.Random, folder: Path) -> str:
    """Alters one file of a model folder; returns what was done."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    others = [name for name in names if name not in weights]
    kind = rng.choice(("config", "config", "config", "weights", "weights", "other", "other", "file", "bytes"))
    if kind == "file":
        return _alter_file(rng, folder, rng.choice(names))
    if kind == "weights" and weights:
        return _alter_weights(rng, folder / rng.choice(weights))
    if kind == "bytes":
        path = folder / rng.choice(names)
        path.write_bytes(altered_bytes(rng, path.read_bytes()))
        return f"bytes of {path.name}"
    path = folder / ("config.json" if kind == "config" and "config.json" in names else rng.choice(others or names))
    if path.suffix != ".json":
        return _alter_template(rng, path) if path.suffix == ".jinja" else _alter_weights(rng, path)
    try:
        path.write_bytes(altered_document(rng, path.read_bytes()))
    except (ValueError, RecursionError):  # altered before
        path.write_bytes(altered_bytes(rng, path.read_bytes()))
    return f"values of {path.name}"


def _alter_template(rng: random.Random, path: Path) -> str:
    text = rng.choice(
        (
            "{{ 1/0 }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}", "{% if %}", "{{", "",
            "{{ messages[9]['content'] }}", "{{ ''.__class__.__mro__ }}", "{% include 'x' %}",
            "{{ raise_exception('no') }}", "{% set x = namespace(a=1) %}{{ x.a }}" * 2000, "{{ 10**10**10 }}",
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{{ messages | tojson(indent=10**9) }}",
            "{% for m in messages %}{{ m.content | center(10**10) }}{% endfor %}",
        )
    )  # fmt: skip
    path.write_text(text)
    return f"{path.name} is {text[:60]!r}"


def _alter_file(rng: random.Random, folder: Path, name: str) -> str:
    path = folder / name
    kind = rng.choice(
        (
            "gone",
            "empty",
            "folder",
            "link to nothing",
            "link to itself",
            "fifo",
            "zeros",
            "pickle",
            "adapter",
            "pointer",
            "device",
        )
    )
    content = path.read_bytes()
    if kind == "adapter":
        (folder / "adapter_config.json").write_text(
            rng.choice(("{", "{}", '{"base_model_name_or_path": "x", "peft_type": "LORA"}'))
        )
        (folder / "adapter_model.safetensors").write_bytes(content)
        return "an adapter lies beside the model"
    if kind == "pickle":
        (folder / "pytorch_model.bin").write_bytes(content)
        return "a pickle lies beside the model"
    path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(folder / "nothing")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "device":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/tty")))
    return f"{name}: {kind}"


def _alter_weights(rng: random.Random, path: Path) -> str:
    content = path.read_bytes()
    kind = rng.choice(("header", "header", "header", "length", "bytes", "number", "dtype", "tensors"))
    if kind == "bytes" or len(content) < 8:
        path.write_bytes(altered_bytes(rng, content))
        return f"bytes of {path.name}"
    size = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + size], content[8 + size :]
    if kind == "length":
        wrong = rng.choice((0, 1, size - 1, size + 1, size + 8, len(content), 10**8, 10**9, 2**63 - 1, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", wrong) + content[8:])
        return f"{path.name}: the header is said to have {wrong} bytes"
    if kind == "header":
        try:
            header = altered_document(rng, header)
        except ValueError:
            header = altered_bytes(rng, header)
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        return f"values of the header of {path.name}"
    try:
        tensors = load_file(path)
    except Exception:
        path.write_bytes(b"")
        return f"{path.name}: empty"
    if not tensors:
        return "nothing"
    name = rng.choice(sorted(tensors))
    if kind == "number":
        value = rng.choice((np.nan, np.inf, -np.inf))
        tensors[name].reshape(-1)[rng.randrange(tensors[name].size)] = value
        save_file(tensors, path)
        return f"{path.name}: {name} holds {value}"
    if kind == "dtype":
        dtype = rng.choice(("float64", "float16", "int32", "int8", "uint8", "bool"))
        tensors[name] = tensors[name].astype(dtype)
        save_file(tensors, path)
        return f"{path.name}: {name} is {dtype}"
    change = rng.choice(("drop", "add", "transpose", "rename", "scalar", "empty"))
    if change == "drop":
        del tensors[name]
    elif change == "add":
        tensors[
            rng.choice(("x", "model.layers.99.x", "lm_head.weight", "model." + name, "", "\x1b[2J", "a" * 10000))
        ] = np.ones(3, np.float32)
    elif change == "transpose":
        tensors[name] = np.ascontiguousarray(tensors[name].T)
    elif change == "rename":
        tensors[rng.choice((name + ".x", name.removeprefix("model."), "base_model." + name))] = tensors.pop(name)
    elif change == "scalar":
        tensors[name] = np.array(1, np.float32)
    else:
        tensors[name] = np.zeros((0, 4), np.float32)
    save_file(tensors, path)
    return f"{path.name}: {change} {name}"


class Seen:
    """All that a run, a generation and an export take of a model folder."""

    def __init__(self, model: Path, data: Path, run_dir: Path):
        run = prepare(
            TrainConfig(data=str(data), run_dir=str(run_dir), model=ModelConfig(path=str(model)), max_steps=200)
        )
        self.decoder = repr(run.model.decoder_config)
        params, _ = run.initial_weights()
        self.weights = {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(jax.device_get(params)).items()}
        tokenizer = Tokenizer(model)
        self.ids = tokenizer.encode("abc fee, tale slate")
        self.ends = sorted(tokenizer.answer_ends | stop_ids(model, run.model.hf_config))
        exported_generation_config(model, run.model.hf_config, run.data.manifest.tokenizer)
        export_tokenizer(run_dir, data / "tokenizer")


class Ready(NamedTuple):
    """The state of the child before the first case: the whole folders, and what is seen of each."""

    folder: Path
    seen: dict[str, Seen]


def ready(folder: Path) -> Ready:
    """Makes the folders, and reads each once."""
    log.setLevel("CRITICAL")
    seen = {base.name: Seen(base, folder / "data", folder / "run") for base in make_bases(folder)}
    return Ready(folder, seen)


def alter_and_read(first: Ready, seed: int) -> tuple[list[str], str]:
    """Tries a case; returns what was done and what came of it.

    Raises:
      Broken: it was not as promised.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(first.seen))
    model = first.folder / "altered-model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(first.folder / "bases" / name, model)
    done = [name, *(alter(rng, model) for _ in range(rng.choice((1, 1, 1, 2))))]
    try:
        return done, judge(model, first.folder / "data", first.folder / "run", first.seen[name])
    except Broken as broken:
        raise Broken("\n".join([*done, str(broken)])) from None


def judge(model: Path, data: Path, run_dir: Path, base: Seen) -> str:
    """Returns `refused`, `equal`, `obeyed` or `other weights`.

    Raises:
      Broken: none of these.
    """
    try:
        seen = Seen(model, data, run_dir)
    except Exception as error:
        ending = find_ending(error)
        message = None if ending is None else str(ending)
        if message is None:
            raise Broken("".join(traceback.format_exception(error))[-2500:]) from None
        expect(model.name in message or "data" in message, f"a refusal does not say where: {message[:300]}")
        expect(len(message) <= 3000, f"a refusal has {len(message)} characters: {message[:200]}")
        shown = printable(message)
        expect(not any(char in shown for char in "\x1b\x07\x00\u202e"), f"control characters: {shown[:200]!r}")
        return "refused"
    wrong = [name for name, weight in seen.weights.items() if not np.isfinite(weight).all()]
    expect(not wrong, f"weights that are not finite are taken: {wrong}")
    expect(seen.ids == base.ids, f"other ids: {seen.ids} for {base.ids}")
    if seen.decoder != base.decoder:
        return "obeyed"
    expect(seen.weights.keys() == base.weights.keys(), "the decoder is the same and its weights have other names")
    if not all(np.array_equal(seen.weights[name], base.weights[name]) for name in seen.weights):
        return "other weights"
    return "equal" if seen.ends == base.ends else "obeyed"


def expect(holds: bool, promise: str) -> None:
    """Raises Broken where a promise does not hold."""
    if not holds:
        raise Broken(promise)


@contextlib.contextmanager
def prepare_attack(folder: Path) -> Iterator[Attempt]:
    """Yields the function that tries one case."""
    with child(__name__, folder) as process:

        def attempt(case: Case) -> None:
            done, outcome = process.call("alter_and_read", case.seed)
            for what in done:
                case.did(what)
            case.saw(outcome)

        yield attempt


ATTACK = Attack(
    "altered model folders are refused by name, or are the model that their files describe",
    prepare=prepare_attack,
    longest_s=400,  # the child has its own watch; its start takes a minute
)
