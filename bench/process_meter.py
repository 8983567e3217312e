"""Memory of this process as the kernel counts it, and the cores that it may use.

This module imports only Python's own library, because the peers' environments read it too.
"""

import os
from pathlib import Path


def pin(cores: list[int]) -> None:
    """Keeps this process and those it starts on these cores. Call it before a library starts its threads."""
    os.sched_setaffinity(0, cores)
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(len(cores))


def status_bytes(field: str) -> int:
    """Returns the bytes in a line of /proc/self/status: VmHWM, VmRSS or RssAnon."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def peak_rss_bytes() -> int:
    """Returns the peak of this process's resident memory. (That of getrusage includes the parent's at the fork.)"""
    return status_bytes("VmHWM")
