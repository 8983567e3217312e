"""How near do loading and exporting weights come to plain reads and writes of the same files, and in how much memory?

    python -m bench.load [--layers=14] [--meshes 1x1 1x8 2x4] [--dtype=bfloat16] [--rounds=3] [--file]
                         [--beside=CHECKOUT --beside_name="the former reader"]

Writes a random Llama checkpoint of bfloat16 in shards, then measures in turn, each in a process of its own: a plain
read of its files into one small buffer, the load into (fake) devices, the export from there, a plain write of as many
bytes. With `--beside` the same load and export of another checkout of this repository run in turn with them.

Cold: the files' pages were dropped from the cache first; writes go to the cache. The load also allocates the weights
and compiles what places them; the plain read keeps nothing. Memory is the peak above what the process had before, less
the weights that stay: the resident set as the kernel keeps its high-water mark, and its anonymous part (without mapped
files), sampled every 2 ms.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.process_meter import status_bytes
from bench.result_page import Page, versions

ROOT = Path(__file__).parents[1]
HIDDEN = 2048
BUFFER_BYTES = 2**23
MAX_SHARD_SIZE = "270MB"
SAMPLE_S = 0.002


def config_of(layers: int, hidden: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 8000,
        "hidden_size": hidden,
        "intermediate_size": hidden * 43 // 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }


def peaks_during(work: Callable[[], Any]) -> tuple[Any, float, dict[str, int]]:
    """Returns the result of `work`, its seconds, and the peaks of memory above what was resident before, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = {"rss": status_bytes("VmRSS"), "anonymous": status_bytes("RssAnon")}
    anonymous, done = [before["anonymous"]], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            anonymous.append(status_bytes("RssAnon"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    peaks = {"rss": status_bytes("VmHWM") - before["rss"], "anonymous": max(anonymous) - before["anonymous"]}
    return result, seconds, peaks


def abstract_weights(layers: int, hidden: int, mesh_axes: tuple[int, int], dtype: str) -> tuple[Any, Any]:
    import jax.numpy as jnp
    from flax import nnx

    from oddsmill.train.config.devices import MeshConfig
    from oddsmill.train.model.decoder import Decoder
    from oddsmill.train.model.hf_config import parse_config
    from oddsmill.train.parallel.sharding import make_mesh, param_shardings

    config = parse_config(config_of(layers, hidden), path="bench")[0]
    shapes = nnx.to_pure_dict(
        nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), param_dtype=jnp.dtype(dtype))))[1]
    )
    return shapes, param_shardings(shapes, make_mesh(MeshConfig(data=mesh_axes[0], fsdp=mesh_axes[1])))


def load_and_export(folder: Path, layers: int, hidden: int, mesh_axes: tuple[int, int], dtype: str) -> dict[str, Any]:
    """Loads the folder in this process, exports it again, and returns what both took.

    Returns: for `load` and `export` the seconds and the peaks in bytes above the weights that stay; `stay`: the bytes
      of these; `exported`: the bytes of the files written.
    """
    import jax

    from oddsmill.train.weights.huggingface import load_params, save_params

    shapes, shardings = abstract_weights(layers, hidden, mesh_axes, dtype)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(0))  # JAX's own start is not the load's
    # The weights' own allocation is not the load's: it stays.
    params, load_s, load_peaks = peaks_during(lambda: load_params(folder, shapes, shardings, num_layers=layers))
    stay = sum(shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards)
    target = folder.with_name("exported")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    _, export_s, export_peaks = peaks_during(
        lambda: save_params(params, target, num_layers=layers, max_shard_size=MAX_SHARD_SIZE)
    )
    return {
        "exported": sum(file.stat().st_size for file in files_of(target)),
        "stay": stay,
        "load": {"seconds": load_s, **{name: peak - stay for name, peak in load_peaks.items()}},
        "export": {"seconds": export_s, **export_peaks},
    }


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def plain_read(folder: Path) -> float:
    buffer, started = bytearray(BUFFER_BYTES), time.perf_counter()
    for file in files_of(folder):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - started


def plain_write(folder: Path, num_bytes: int) -> float:
    content, started = os.urandom(BUFFER_BYTES), time.perf_counter()
    with (folder / "plain").open("wb", buffering=0) as file:
        for _ in range(num_bytes // BUFFER_BYTES):
            file.write(content)
    seconds = time.perf_counter() - started
    (folder / "plain").unlink()
    return seconds


def drop_from_cache(folder: Path) -> None:
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_a_process(
    folder: Path, layers: int, hidden: int, mesh_axes: tuple[int, int], dtype: str, *, checkout: Path = ROOT
) -> dict[str, Any]:
    """Runs `load_and_export` of a checkout in a new process with as many fake devices as the mesh has."""
    devices = mesh_axes[0] * mesh_axes[1]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    arguments = [str(folder), str(layers), str(hidden), str(mesh_axes[0]), str(mesh_axes[1]), dtype]
    finished = subprocess.run(
        [sys.executable, "-m", "bench.load", "--measure", *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def write_checkpoint(folder: Path, layers: int, hidden: int) -> int:
    """Writes random bfloat16 weights; returns the bytes of the largest tensor."""
    import jax.numpy as jnp
    import numpy as np
    from flax.traverse_util import flatten_dict

    from oddsmill.train.model.names import hf_names
    from oddsmill.train.weights.safetensors_files import write_tensors

    shapes, _ = abstract_weights(layers, hidden, (1, 1), "bfloat16")
    tensors = {
        name: (tuple(leaf.shape[1:] if path[0] == "layers" else leaf.shape), jnp.dtype(jnp.bfloat16))
        for path, leaf in flatten_dict(shapes).items()
        for name in hf_names(path, layers)
    }
    generator = np.random.default_rng(0)

    def fetch(name: str) -> np.ndarray:
        # Random bits, but no infinity nor NaN: the exponent's highest bit is cleared.
        bits = generator.integers(0, 2**16, tensors[name][0], np.uint16) & 0xBFFF
        return bits.view(jnp.bfloat16)

    folder.mkdir(parents=True)
    write_tensors(folder, tensors, fetch, max_shard_size=MAX_SHARD_SIZE)
    return max(int(np.prod(shape)) * dtype.itemsize for shape, dtype in tensors.values())


def one_round(
    folder: Path, layers: int, axes: tuple[int, int], dtype: str, sides: dict[str, Path]
) -> dict[tuple[str, str], dict[str, float]]:
    """Measures every side once, in turn; returns, by what was measured and side, speeds in bytes a second and peaks."""
    size = sum(file.stat().st_size for file in files_of(folder))
    rows = {}
    for what, prepare in (("load, cold cache", drop_from_cache), ("load, warm cache", plain_read)):
        prepare(folder)
        plain = size / plain_read(folder)
        for side, checkout in sides.items():
            prepare(folder)
            run = in_a_process(folder, layers, HIDDEN, axes, dtype, checkout=checkout)
            rows[what, side] = {**run["load"], "speed": size / run["load"]["seconds"], "plain": plain}
            if what == "load, warm cache":
                written = run["exported"]
                plain_speed = written / plain_write(folder.parent, written)
                speed = written / run["export"]["seconds"]
                rows["export", side] = {**run["export"], "speed": speed, "plain": plain_speed}
    return dict(sorted(rows.items(), key=lambda entry: entry[0][0] == "export"))


def compare(page: Page, folder: Path, given: argparse.Namespace) -> None:
    """Adds the table: for every mesh, what each side took."""
    largest = write_checkpoint(folder, given.layers, HIDDEN)
    size = sum(file.stat().st_size for file in files_of(folder))
    sides = {"this": ROOT} | ({given.beside_name: Path(given.beside).resolve()} if given.beside else {})
    page.say(
        f"{versions(['jax', 'safetensors'])}. A Llama of {size / 1e9:.2f} GB in bfloat16 in {len(files_of(folder))} "
        f"shards, the largest tensor {largest / 1e6:.0f} MB, loaded as {given.dtype} on fake CPU devices. Medians of "
        f"{given.rounds} rounds for speeds; the highest of all for memory, above the weights that stay.\n"
    )
    page.head("mesh (data x fsdp)", "what", "side", "s", "GB/s", "to a plain read or write", "anonymous MB", "RSS MB")
    for mesh in given.meshes:
        axes = tuple(map(int, mesh.split("x")))
        rounds = [one_round(folder, given.layers, axes, given.dtype, sides) for _ in range(given.rounds)]
        for what, side in rounds[0]:
            results = [each[what, side] for each in rounds]
            seconds, speed, plain = (median(each[name] for each in results) for name in ("seconds", "speed", "plain"))
            anonymous, rss = (max(each[name] for each in results) for name in ("anonymous", "rss"))
            page.row(
                mesh,
                what,
                side,
                f"{seconds:.2f}",
                f"{speed / 1e9:.2f}",
                f"{speed / plain:.2f}",
                f"{anonymous / 1e6:,.0f}",
                f"{rss / 1e6:,.0f}",
            )


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measured, layers, hidden, data, fsdp, dtype = sys.argv[2:]
        print(json.dumps(load_and_export(Path(measured), int(layers), int(hidden), (int(data), int(fsdp)), dtype)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--dtype", default="bfloat16", help="of the weights in the devices: bfloat16 or float32")
    parser.add_argument("--meshes", nargs="+", default=["1x1", "1x8", "2x4"], help="data x fsdp, of fake devices")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured, in turn")
    parser.add_argument("--folder", help="where the files go, on the disk in question")
    parser.add_argument("--beside", help="another checkout of this repository, measured in turn with this one")
    parser.add_argument("--beside_name", default="beside", help="what the page calls it")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    given = parser.parse_args()
    page = Page("Loading and exporting weights beside plain reads and writes", what="load", module="bench.load")
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        compare(page, Path(temporary) / "checkpoint", given)
    if given.file:
        page.file()


if __name__ == "__main__":
    main()
