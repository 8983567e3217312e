"""Notices that a shard was altered or went missing while a run reads it."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from oddsmill.schemas.dataset_files import lacks_files
from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.train.data.dataset import Dataset
from oddsmill.train.data.verified_shards import VerifiedShards

_ANOTHER = (-1, -1, -1)  # the state of no file


class ShardWatch:
    """Remembers the inode, size and time of change of every shard, which the run has verified when it begins."""

    def __init__(self, *datasets: Dataset, verified: VerifiedShards | None = None):
        """Looks at each shard.

        Args:
          verified: how `verify_shards` found them; a shard that is another by now has changed under the run.
        """
        paths = {
            os.path.join(dataset.folder, shard.name)
            for dataset in datasets
            for split in dataset.manifest.splits.values()
            for shard in split.shards
        }
        self._before = {path: _state(path) for path in sorted(paths)}
        for path, state in self._before.items():
            known = (verified or {}).get(os.path.abspath(path))
            if known and (state is None or state[1:] != known[:2]):
                self._before[path] = _ANOTHER

    def check(self) -> None:
        """Compares every shard with what is remembered: one `stat` each, cheap enough before every checkpoint.

        Raises:
          RunFailed: a shard was altered or is missing.
        """
        changed = [path for path, state in self._before.items() if _state(path) != state]
        if changed:
            what = "; ".join(f"{path} {'was altered' if os.path.exists(path) else 'is missing'}" for path in changed)
            raise RunFailed(
                f"{what} since the run began. Nothing was saved since: bring the data back as they were, "
                "and the same command goes on from the newest checkpoint"
            )

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Explains an error inside by the shard that has changed, or by a row that cannot be read.

        Raises:
          RunFailed: in place of any error but those of the devices and those that are explained already.
        """
        try:
            yield
        except (Refused, RunFailed, jax.errors.JaxRuntimeError):
            raise  # the last is of the devices, not of the data
        except Exception as error:
            self.check()
            if lacks_files(error):
                soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                raise RunFailed(
                    f"too many files are open: {soft:,} are allowed here (ulimit -n). The data are as they were; allow "
                    "more, and the same command goes on from the newest checkpoint"
                ) from error
            raise RunFailed(
                f"a row of the data cannot be read ({str(error).strip() or type(error).__name__}). "
                "oddsmill pipeline verify finds which shard is damaged"
            ) from error


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
