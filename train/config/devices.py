"""How devices are arranged, and how the processes that hold them find each other."""

import re
from dataclasses import dataclass

from oddsmill.schemas.errors import require


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are arranged.

    Args:
      data: copies of the weights; -1 takes all devices that the other axes leave.
      fsdp: devices over which weights, gradients and optimizer state are spread.
      tensor: devices that share each row's work: heads, the inside of the MLP, the vocabulary of the head.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """The processes of a run, one a machine or one an accelerator. Nothing given: a single process.

    Args:
      coordinator_address: host:port of process 0, which listens there.
      num_processes: of the whole run.
      process_id: of this one, from 0.
      detect_cluster: the cluster says what is not given: Slurm, Open MPI, Kubernetes or Cloud TPU.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    detect_cluster: bool = False

    def __post_init__(self) -> None:
        names = ("coordinator_address", "num_processes", "process_id")
        missing = [f"--distributed.{name}" for name in names if getattr(self, name) is None]
        given = [name for name in names if getattr(self, name) is not None]
        if missing and given and not self.detect_cluster:
            require(
                False,
                f"distributed.{given[0]}",
                getattr(self, given[0]),
                f"{' and '.join(missing)} must be given too, or --distributed.detect_cluster=true",
            )
        address, count, index = self.coordinator_address, self.num_processes, self.process_id
        require(
            address is None or re.fullmatch(r".+:\d+", address) is not None,
            "distributed.coordinator_address",
            address,
            "must be host:port",
        )
        require(count is None or count > 0, "distributed.num_processes", count, "must be positive")
        require(
            index is None or 0 <= index < (count or index + 1),
            "distributed.process_id",
            index,
            f"must be from 0 to {(count or 1) - 1}",
        )
