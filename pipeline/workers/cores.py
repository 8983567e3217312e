"""The cores that this process may use, which a container often limits."""

import math
import os
from contextlib import suppress
from pathlib import Path

_QUOTAS = Path("/sys/fs/cgroup")


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
