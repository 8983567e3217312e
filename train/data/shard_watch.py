"""Notices that a shard was altered or went missing while a run reads it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from oddsmill.schemas.errors import Refused, RunFailed
from oddsmill.schemas.manifest import Manifest


class ShardWatch:
    """Remembers how every shard lies on disk when the run begins, where its digest was compared with the manifest's.

    Args:
      datasets: folders with their manifests.

    Raises:
      RunFailed: from `check` and `blamed`.
    """

    def __init__(self, *datasets: tuple[str, Manifest]):
        paths = {
            os.path.join(folder, shard.name)
            for folder, manifest in datasets
            for split in manifest.splits.values()
            for shard in split.shards
        }
        self._before = {path: _state(path) for path in sorted(paths)}

    def check(self) -> None:
        """One `stat` a shard: cheap enough before every checkpoint."""
        changed = [path for path, state in self._before.items() if _state(path) != state]
        if changed:
            what = "; ".join(f"{path} {'was altered' if os.path.exists(path) else 'is missing'}" for path in changed)
            raise RunFailed(
                f"{what} since the run began. Nothing was saved since: bring the data back as they were, "
                "and the same command goes on from the newest checkpoint"
            )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What fails inside is told as a shard's fault where one has changed."""
        try:
            yield
        except (Refused, RunFailed, jax.errors.JaxRuntimeError):
            raise  # the last is of the devices, not of the data
        except Exception as error:
            self.check()
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
