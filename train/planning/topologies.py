"""Devices that JAX can compile for although they are not here: fake CPUs, and the TPU slices that Google names."""

import difflib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from oddsmill.schemas.errors import Refused

# Chips of a slice -> how they are arranged, by Google's tables of TPU configurations.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip


class Chip(NamedTuple):
    """A generation of TPU chips by Google's data sheets; JAX sees a chip as one device.

    Attributes:
      units: what a slice's name counts of each chip: v4 and v5p count TensorCores, v5e and v6e chips.
      memory_bytes: size of its main memory (HBM).
    """

    units: int
    memory_bytes: int


_CHIPS = {
    "v4": Chip(units=2, memory_bytes=32 * 2**30),
    "v5e": Chip(units=1, memory_bytes=16 * 2**30),
    "v5p": Chip(units=2, memory_bytes=95 * 2**30),
    "v6e": Chip(units=1, memory_bytes=32 * 2**30),
}
_SLICES = {
    f"{name}-{chips * chip.units}": (name, chips)
    for name, chip in _CHIPS.items()
    for chips in (_CUBES if chip.units == 2 else _FLAT)
}
_GPU = re.compile(r"gpu|cuda|rocm|nvidia|geforce|^(rtx|gh|gb|[abhl])\d{1,4}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: the name that was asked for.
      memory_bytes: size of each device's memory; None where it is not known.
    """

    name: str
    devices: list[jax.Device]
    memory_bytes: int | None

    @property
    def num_processes(self) -> int:
        return len({device.process_index for device in self.devices})


def find_topology(name: str) -> Topology:
    """Returns the devices of a name: `cpu:8`, or a TPU slice as Google names it (`v5litepod-16` is `v5e-16`).

    Raises:
      Refused: an unknown name, a GPU, or libtpu is not installed.
    """
    cpus = re.fullmatch(r"cpu:([1-9]\d*)", name)
    if cpus:
        return Topology(name=name, devices=_fake_cpus(name, int(cpus.group(1))), memory_bytes=None)
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
    return Topology(name=name, devices=devices, memory_bytes=_CHIPS[generation].memory_bytes)


def _fake_cpus(name: str, count: int) -> list[jax.Device]:
    with suppress(RuntimeError):  # JAX is in use already, by a caller from Python
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise Refused(
            f"--topology={name}: JAX began with {len(devices)} CPU device(s) here; plan in a process of its own"
        )
    return devices[:count]


def _tpus(generation: str, chips: int) -> list[jax.Device]:
    shape = (_CUBES if _CHIPS[generation].units == 2 else _FLAT)[chips]
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
