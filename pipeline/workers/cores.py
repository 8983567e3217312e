"""The cores that this process may use, which a container often limits, and how many processes it may talk to."""

import math
import os
import resource
from contextlib import suppress
from pathlib import Path

_QUOTAS = Path("/sys/fs/cgroup")
_FILES, _FILES_OF_PROCESS = 64, 2  # that a run has open; those of each process are the two ends of a connection


def usable_cores(quotas: Path = _QUOTAS) -> int:
    """Returns the number of cores that this process may use: by its affinity, and by the quota of its container.

    Args:
      quotas: where the kernel shows the quota; there is none on other systems than Linux.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name, of_period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError, IndexError):  # "max", or not there
            words = (quotas / name).read_text().split()
            period = words[1] if of_period is None else (quotas / of_period).read_text()
            if (share := int(words[0]) / int(period)) > 0:
                cores = min(cores, math.ceil(share))
    return max(1, cores)


def connectable_processes() -> int:
    """Returns to how many processes this one may have connections, by its limit on open files (ulimit -n)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit == resource.RLIM_INFINITY else max(1, (limit - _FILES) // _FILES_OF_PROCESS)
