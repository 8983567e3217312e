"""Safetensors files of a model folder: an inventory of what they hold, reading slices, writing one tensor at a time.

Reading is the library's. Writing is not: the library takes all tensors of a file at once, which in shards of 5 GB is
5 GB of host memory, and in the filed comparison three to four times the memory in no less time
(bench/results/load_cpu2_202611.md).

Source: the format's definition, https://github.com/huggingface/safetensors#format
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open

from oddsmill.schemas.errors import Refused, one_line
from oddsmill.schemas.typed_json import read_object, shown

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_NAME = 200  # in messages, of tensors: a file may hold any
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.msgpack", "*.h5")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `dtype` as the format names it (F32, BF16, F8_E4M3, ...)."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """Reads a part of the tensor.

        The file is opened for this part alone: pages of a memory map count as the process's own until it is closed.

        Raises:
          Refused: the file is no longer whole.
        """
        with _opened(self.file) as file:
            return file.get_slice(self.name)[index]


@contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, "numpy") as opened:  # checks sizes, offsets, holes, overlaps
            yield opened
    except (SafetensorError, OSError) as error:
        raise Refused(
            f"{file} is damaged, cut short or not safetensors ({one_line(error)}); fetch it again "
            "(git-lfs: git lfs pull)"
        ) from error


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a file, by name.

    Raises:
      Refused: the file is cut short or not safetensors.
    """
    with _opened(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
        return {
            name: StoredTensor(file, name, stored.get_dtype(), tuple(stored.get_shape()))
            for name, stored in slices.items()
        }


def stored_tensors(folder: str | Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a model folder by name, from `model.safetensors` or the shards that the index names.

    Raises:
      Refused: the folder has no safetensors, a file is damaged, or the index does not fit the shards.
    """
    folder = Path(folder)
    if (folder / SINGLE_FILE).is_file():  # before the index, as transformers does
        return read_header(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise Refused(_no_safetensors(folder))
    index = read_object(folder / INDEX_FILE, advice="fetch it again", max_bytes=1 << 28).get("weight_map")
    if not isinstance(index, dict):
        raise Refused(
            f"{folder / INDEX_FILE} is damaged (weight_map={shown(index)}: must be an object); fetch it again"
        )
    strange = [shard for shard in index.values() if not isinstance(shard, str) or Path(shard).name != shard]
    if strange:
        raise Refused(
            f"{folder / INDEX_FILE} is damaged ({shown(strange[0])} is not the name of a file); fetch it again"
        )
    shards = sorted(set(index.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise Refused(f"{folder} lacks {listed(missing)}, which {INDEX_FILE} names; fetch the model again")
    headers = {shard: read_header(folder / shard) for shard in shards}
    holders: dict[str, list[str]] = {}
    for shard, header in headers.items():
        for name in header:
            holders.setdefault(name, []).append(shard)
    problems = [f"{name} is in {' and in '.join(those)}" for name, those in holders.items() if len(those) > 1]
    for name, shard in index.items():
        if shard not in holders.get(name, []):
            others = ", ".join(holders.get(name, []))
            problems.append(f"{name} is not in {shard}" + (f" but in {others}" if others else ""))
    unnamed = {name: shard for shard in shards for name in headers[shard] if name not in index}
    problems += [f"{name} of {shard} is not in the index" for name, shard in unnamed.items()]
    if problems:
        raise Refused(f"{folder / INDEX_FILE} does not fit its shards; fetch the model again: {listed(problems)}")
    return {name: headers[shard][name] for name, shard in index.items()}


def _no_safetensors(folder: Path) -> str:
    """Returns a message that says what a folder without readable weights has, and what to do about it."""
    loose = sorted(path.name for path in folder.glob("*.safetensors"))
    if "adapter_model.safetensors" in loose:
        return (
            f"{folder} holds a PEFT adapter without its model; merge it into the model first (PEFT: merge_and_unload)"
        )
    if loose:
        return f"{folder} holds {loose[0]} but neither {SINGLE_FILE} nor {INDEX_FILE}; fetch the missing one"
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        return (
            f"{folder} has weights as {others[0]} alone; only safetensors are read, since a pickle can run code. "
            f"Fetch the model's {SINGLE_FILE} (on the hub often in a pull request: --model.revision=refs/pr/1), "
            "or convert once, where you trust the file: "
            "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    return f"{folder} lacks {SINGLE_FILE}: weights are read from safetensors alone; fetch them beside config.json"


def listed(names: list[str], *, limit: int = 20) -> str:
    """Returns names for a message; those that differ only in the number of the layer become one entry."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = name[: number.start()] + "{}" + name[number.end() :] if number else name
        groups.setdefault(pattern, []).append((name, number.group() if number else ""))
    parts = [
        members[0][0] if len(members) == 1 else pattern.replace("{}", f"{{{','.join(n for _, n in members)}}}")
        for pattern, members in groups.items()
    ]
    parts = [part if len(part) <= _LONGEST_NAME else f"{part[:_LONGEST_NAME]}…" for part in parts]
    more = [f"and {len(parts) - limit} more kinds"] if len(parts) > limit else []
    return "; ".join(parts[:limit] + more)


def write_tensors(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    fetch: Callable[[str], np.ndarray],
    *,
    max_shard_size: str,
    is_writer: bool = True,
) -> None:
    """Writes one file, or shards with an index, byte for byte as the library would; one tensor is in memory at a time.

    Args:
      tensors: shape and dtype of each tensor, by name.
      fetch: returns a tensor in that shape and dtype. Every process calls it once for each, in the same order.
      is_writer: False on the processes that only take part in `fetch`.
    """
    sizes = {name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for name, (shape, dtype) in tensors.items()}
    plan = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for filename, names in plan.filename_to_tensors.items():
        # The widest dtype first keeps every tensor aligned; the library orders them so, too.
        ordered = sorted(names, key=lambda name: (-tensors[name][1].itemsize, name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name in ordered:
            shape, dtype = tensors[name]
            offsets = [position, position + sizes[name]]
            header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
            position = offsets[1]
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        if not is_writer:
            for name in ordered:
                fetch(name)
            continue
        with (folder / filename).open("wb", buffering=0) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in ordered:
                _write_all(file, fetch(name))
    if plan.is_sharded and is_writer:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_all(file: io.FileIO, tensor: np.ndarray) -> None:
    content = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    while content:  # a raw write may take less than it is given
        content = content[file.write(content) :]
