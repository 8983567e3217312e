"""The facts around a run that have a part in its result or in its messages: code, libraries, settings of JAX, devices.

Several processes must have them in common (agreement.py).
"""

import hashlib
import importlib.metadata
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax

from oddsmill.schemas.version import tool_version

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-dtypes", "safetensors")
# Flags that change the compiled program, or how the processes speak with each other.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "NCCL_ALGO", "NCCL_PROTO")
# Flags that say where something is written, or how many devices there are, which is compared by itself.
_OWN_FLAGS = re.compile(r"--xla_(dump_\w+|force_host_platform_device_count|cpu_parallel_codegen_split_count)\b")
# Settings of JAX about caches, messages, names of devices and waiting; all others are compared.
_OWN_JAX_SETTINGS = re.compile(
    r"jax_(compilation_cache|persistent_cache|raise_persistent|enable_compilation_cache|log|debug_log|debug_leaked|dump"
    r"|explain|traceback|tracer_error|send_traceback|include_|pprint|source_url|hlo_source_file|compiler_detailed"
    r"|captured_constants|check_proxy|distributed_debug|cross_host_transfer_socket|cross_host_transport_addresses"
    r"|num_cpu_devices|cpu_get_|array_garbage|thread_guard)|jax_\w+_visible_devices"
)


def code_facts() -> dict[str, str]:
    """Returns the versions of this code and of the libraries that compute, by name."""
    found = {"oddsmill": tool_version(), "the code of oddsmill": _code_digest(), "Python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _LIBRARIES}


@cache
def _code_digest() -> str:
    """Returns the start of a digest of the source files that a run executes."""
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for package in ("schemas", "train"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def jax_facts() -> dict[str, Any]:
    """Returns the settings of JAX and the variables of the environment that results depend on, by name."""
    settings = {name: str(value) for name, value in jax.config.values.items() if not _OWN_JAX_SETTINGS.match(name)}
    flags = {
        name: " ".join(sorted(flag for flag in os.environ.get(name, "").split() if not _OWN_FLAGS.match(flag)))
        for name in _FLAGS
    }
    return settings | flags | {name: os.environ.get(name) for name in _VARIABLES}


def device_facts() -> dict[str, Any]:
    """Returns what devices this process has. Where several are joined, they find each other's devices here."""
    devices = jax.local_devices()
    return {
        "the number of its devices": len(devices),
        "the kind of its devices": " and ".join(sorted({device.device_kind for device in devices})),
        "the platform of its devices": jax.default_backend(),
        "JAX's number of processes": jax.process_count(),
    }
