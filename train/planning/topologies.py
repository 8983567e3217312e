"""Devices to compile for that are not here: fake CPUs, and the TPU slices that Google names."""

import difflib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from oddsmill.schemas.errors import Refused
from oddsmill.train.monitor.mfu import peak_flops

# Chips of a slice -> how they are arranged, by Google's tables of TPU configurations.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a TPU chip, one device to JAX, is by Google's data sheets.

    Attributes:
      cores_a_chip: what Google's names of slices count a chip as: v4 and v5p name TensorCores, v5e and v6e chips.
      memory_bytes, memory_bytes_per_s: its main memory (HBM).
      link_bytes_per_s: what all its links to other chips bring in together.
    """

    cores_a_chip: int
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float


_CHIPS = {
    "v4": Chip(cores_a_chip=2, memory_bytes=32 * 2**30, memory_bytes_per_s=1228e9, link_bytes_per_s=300e9),
    "v5e": Chip(cores_a_chip=1, memory_bytes=16 * 2**30, memory_bytes_per_s=819e9, link_bytes_per_s=200e9),
    "v5p": Chip(cores_a_chip=2, memory_bytes=95 * 2**30, memory_bytes_per_s=2765e9, link_bytes_per_s=600e9),
    "v6e": Chip(cores_a_chip=1, memory_bytes=32 * 2**30, memory_bytes_per_s=1638e9, link_bytes_per_s=448e9),
}
_SLICES = {
    f"{name}-{chips * chip.cores_a_chip}": (name, chips)
    for name, chip in _CHIPS.items()
    for chips in (_CUBES if chip.cores_a_chip == 2 else _FLAT)
}
_GPU = re.compile(r"gpu|cuda|rocm|nvidia|geforce|^(rtx|gh|gb|[abhl])\d{1,4}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as it was asked for.
      chip: what one of them is; None where that is not known.
      peak_flops: bfloat16 FLOP/s of one; None where that is not known.
    """

    name: str
    devices: list[Any]
    chip: Chip | None
    peak_flops: float | None

    @property
    def num_processes(self) -> int:
        return len({device.process_index for device in self.devices})


def find_topology(name: str) -> Topology:
    """The devices of a name: `cpu:8`, or a TPU slice as Google names it (`v5litepod-16` is `v5e-16`).

    Raises:
      Refused: an unknown name, a GPU, or libtpu is not installed.
    """
    cpus = re.fullmatch(r"cpu:([1-9]\d*)", name)
    if cpus:
        return Topology(name=name, devices=_fake_cpus(name, int(cpus.group(1))), chip=None, peak_flops=None)
    found = _SLICES.get(name.replace("v5litepod-", "v5e-"))
    if found is None and _GPU.search(name):
        raise Refused(
            f"--topology={name}: XLA compiles for a GPU only where one is: it times kernels on it. There, "
            "`oddsmill train run --max_steps=2` says whether a run fits; here cpu:N and TPUs can be planned"
        )
    if found is None:
        nearest = difflib.get_close_matches(name, [*_SLICES, "cpu:8"], n=3, cutoff=0.3)
        families = ", ".join(f"{family}-N" for family in _CHIPS)
        raise Refused(
            f"--topology={name}: not known; {'nearest are ' + ', '.join(nearest) if nearest else 'none is near'} "
            f"(cpu:N, {families}, as Google names them: v4 and v5p count TensorCores, two a chip; v5e and v6e chips)"
        )
    generation, chips = found
    devices = _tpus(generation, chips)
    assert len(devices) == chips
    peak = peak_flops(devices[0].device_kind)
    return Topology(name=name, devices=devices, chip=_CHIPS[generation], peak_flops=peak)


def _fake_cpus(name: str, count: int) -> list[Any]:
    with suppress(RuntimeError):  # JAX is in use already, by a caller from Python
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise Refused(
            f"--topology={name}: JAX began with {len(devices)} CPU device(s) here; plan in a process of its own"
        )
    return devices[:count]


def _tpus(generation: str, chips: int) -> list[Any]:
    shape = (_CUBES if _CHIPS[generation].cores_a_chip == 2 else _FLAT)[chips]
    # libtpu looks for the TPU machine it would be on, and says at length that it finds none.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", f"{generation}-{chips}"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # it has no TPU to share with other processes
    ):
        os.environ.setdefault(variable, value)
    # Four chips a host, but for slices that are one host.
    bounds = [int(side) for side in shape.split("x")] if chips <= 8 and len(shape) == 3 else [2, 2]
    options: dict[str, Any] = {"chips_per_host_bounds": [*bounds, 1]}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on Cloud TPU
    try:
        return list(topologies.get_topology_desc(f"{generation}:{shape}", "tpu", **options).devices)
    except RuntimeError as error:
        if "not installed" not in str(error):
            raise
        raise Refused(
            "compiling for TPUs needs libtpu, which is not installed: pip install 'oddsmill[tpu]'; no TPU is needed"
        ) from None
