"""What a process takes: CPU seconds and memory, as the kernel counts them; and the cores it may take them from.

Imports nothing but Python's own: the peers' environments read this too.
"""

import os
from pathlib import Path


def pin(cores: list[int]) -> None:
    """Holds this process and those it starts on these cores. To be called before a library starts its threads."""
    os.sched_setaffinity(0, cores)
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(len(cores))


def status_bytes(field: str) -> int:
    """A line of /proc/self/status: VmHWM, VmRSS, RssAnon."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def peak_rss_bytes() -> int:
    """The most that was ever resident of this process. (getrusage's also counts what its parent had at the fork.)"""
    return status_bytes("VmHWM")
