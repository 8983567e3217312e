"""How near do loading and exporting weights come to plain reads and writes of the same files, and in how much memory?

Writes a random Llama checkpoint of bfloat16 in shards, then measures in turn, each in a process of its own: a plain
read of its files into one small buffer, the load into (fake) devices, the export from there, a plain write of as many
bytes. Cold: the files' pages were dropped from the cache first; writes go to the cache. The load also allocates the
weights and compiles what places them; the plain read keeps nothing. Memory is the peak above what the process had
before, less the weights that stay: the resident set as the kernel keeps its high-water mark, and its anonymous part
(without mapped files), sampled every 2 ms.

    python -m bench.load [--layers=14] [--meshes 1x1 1x8 2x4] [--dtype=bfloat16] [--rounds=3]
"""

import argparse
import json
import os
import platform
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
    """The result of `work`, its seconds, and the peaks above what was resident before, in bytes."""
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
    """In this process: loads the folder, exports it again, and says what both took.

    Returns: for `load` and `export` the seconds and the peaks in bytes above the weights that stay.
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


def in_a_process(folder: Path, layers: int, hidden: int, mesh_axes: tuple[int, int], dtype: str) -> dict[str, Any]:
    """`load_and_export` in a new process with as many fake devices as the mesh has; `exported` stays beside."""
    devices = mesh_axes[0] * mesh_axes[1]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    arguments = [str(folder), str(layers), str(hidden), str(mesh_axes[0]), str(mesh_axes[1]), dtype]
    finished = subprocess.run(
        [sys.executable, "-m", "bench.load", "--measure", *arguments],
        env={**os.environ, "XLA_FLAGS": flags},
        cwd=Path(__file__).parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def write_checkpoint(folder: Path, layers: int, hidden: int) -> int:
    """Random bfloat16 weights; returns the bytes of the largest tensor."""
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


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        folder, layers, hidden, data, fsdp, dtype = sys.argv[2:]
        print(json.dumps(load_and_export(Path(folder), int(layers), int(hidden), (int(data), int(fsdp)), dtype)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--dtype", default="bfloat16", help="of the weights in the devices: bfloat16 or float32")
    parser.add_argument("--meshes", nargs="+", default=["1x1", "1x8", "2x4"], help="data x fsdp, of fake devices")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured, in turn")
    parser.add_argument("--folder", help="where the files go, on the disk in question")
    arguments = parser.parse_args()
    import jax

    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary) / "checkpoint"
        largest = write_checkpoint(folder, arguments.layers, HIDDEN)
        size = sum(file.stat().st_size for file in files_of(folder))
        print(f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, {jax.default_backend()}")
        print(
            f"bfloat16, {size / 1e9:.2f} GB in {len(files_of(folder))} shards, the largest tensor "
            f"{largest / 1e6:.0f} MB, loaded as {arguments.dtype}; medians of {arguments.rounds}, peaks of all\n"
        )
        print(
            "| mesh (data x fsdp) | what | GB/s | plain GB/s | ratio "
            "| peak above the weights, MB: anonymous, RSS | under 3 x the largest tensor |\n" + "|---" * 7 + "|"
        )
        for mesh in arguments.meshes:
            axes = tuple(map(int, mesh.split("x")))
            results = [one_round(folder, arguments.layers, axes, arguments.dtype) for _ in range(arguments.rounds)]
            for what in results[0]:
                speed, plain = (median(result[what][name] for result in results) for name in ("speed", "plain"))
                anonymous, rss = (max(result[what][name] for result in results) for name in ("anonymous", "rss"))
                print(
                    f"| {mesh} | {what} | {speed / 1e9:.2f} | {plain / 1e9:.2f} | {speed / plain:.2f} "
                    f"| {anonymous / 1e6:,.0f}, {rss / 1e6:,.0f} | {'yes' if rss < 3 * largest else 'NO'} |"
                )
                sys.stdout.flush()


def one_round(folder: Path, layers: int, axes: tuple[int, int], dtype: str) -> dict[str, dict[str, float]]:
    """Both sides of each question, one after the other; speeds in bytes a second."""
    size = sum(file.stat().st_size for file in files_of(folder))
    rows = {}
    for what in ("load, cold cache", "load, warm cache"):
        prepare = drop_from_cache if "cold" in what else plain_read
        prepare(folder)
        plain_s = plain_read(folder)
        prepare(folder)
        run = in_a_process(folder, layers, HIDDEN, axes, dtype)
        rows[what] = {**run["load"], "speed": size / run["load"]["seconds"], "plain": size / plain_s}
    written = run["exported"]
    plain = written / plain_write(folder.parent, written)
    rows["export"] = {**run["export"], "speed": written / run["export"]["seconds"], "plain": plain}
    return rows


if __name__ == "__main__":
    main()
