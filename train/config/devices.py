"""How devices are arranged, and how the processes that hold them find each other."""

import re

from oddsmill.schemas.errors import require
from oddsmill.schemas.settings import setting, settings


@settings(group="mesh.")
class MeshConfig:
    """How devices are arranged."""

    data: int = setting("Copies of the weights; -1 takes all devices that the other axes leave.", default=-1)
    fsdp: int = setting(
        "Devices over which weights, gradients and optimizer state are spread.",
        default=1,
    )
    tensor: int = setting(
        "Devices that share each row's work: heads, the inside of the MLP, the vocabulary of the head.",
        default=1,
    )


@settings(group="distributed.")
class DistributedConfig:
    """The processes of a run, one a machine or one an accelerator. Where nothing is given there is a single process."""

    coordinator_address: str | None = setting("host:port of process 0, which listens there.", default=None)
    num_processes: int | None = setting("How many processes the whole run has.", default=None, above=0)
    process_id: int | None = setting("The number of this process, from 0.", default=None)
    detect_cluster: bool = setting(
        "The cluster says what is not given: Slurm, Open MPI, Kubernetes or Cloud TPU.",
        default=False,
    )
    initialization_timeout: int = setting(
        "The seconds that a process waits for the others to come; then it ends.",
        default=300,
        above=0,
        needs=("coordinator_address", "detect_cluster"),
    )

    def check(self) -> None:
        names = ("coordinator_address", "num_processes", "process_id")
        missing = [f"--distributed.{name}" for name in names if getattr(self, name) is None]
        given = [name for name in names if getattr(self, name) is not None]
        if missing and given and not self.detect_cluster:
            problem = f"{' and '.join(missing)} must be given too, or --distributed.detect_cluster=true"
            require(False, f"distributed.{given[0]}", getattr(self, given[0]), problem)
        address, count, index = self.coordinator_address, self.num_processes, self.process_id
        is_address = address is None or re.fullmatch(r".+:\d+", address) is not None
        require(is_address, "distributed.coordinator_address", address, "must be host:port")
        in_range = index is None or 0 <= index < (count or index + 1)
        require(in_range, "distributed.process_id", index, f"must be from 0 to {(count or 1) - 1}")


@settings()
class DeviceSettings:
    """The devices of a run."""

    mesh: MeshConfig = setting("How devices are arranged.", default_factory=MeshConfig, may_change=True)
    distributed: DistributedConfig = setting(
        "How several processes find each other.",
        default_factory=DistributedConfig,
        may_change=True,
    )
