"""The records of many shards with random access, by few open files."""

import bisect
import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, SupportsIndex

from array_record.python.array_record_module import ArrayRecordReader

from oddsmill.schemas.dataset_files import open_shard

_MOST_OPEN = 512


class ShardRecords:
    """The records of shards in stored order: a source of Grain's.

    `grain.sources.ArrayRecordDataSource` keeps every shard open that it has ever read, of which a process may have
    1,024, and opens all of them once to count their records. Here the shards that were read last are open, and the
    manifest says how many records each holds. Opening a shard again takes 50 us, of 20,000 records 1.5 ms.
    """

    def __init__(self, paths: Sequence[str], records: Sequence[int], *, most_open: int | None = None):
        """Opens nothing yet.

        Args:
          paths: of the shards, in order.
          records: the number of records of each.
          most_open: how many may be open at a time. None: an eighth of the files that a process may open, at most 512,
            since a run has several sources and needs files for other things.
        """
        self._paths, self._ends, self._most_open = list(paths), list(accumulate(records)), most_open
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, ArrayRecordReader] = OrderedDict()  # the one that was read last stands last
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: SupportsIndex) -> bytes:
        """Returns a record.

        Raises:
          OSError: the system does not open its shard.
          ValueError: the shard is damaged, or does not hold the records that it should; names it.
        """
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect.bisect_right(self._ends, number)
        first = self._ends[shard - 1] if shard else 0
        try:
            return bytes(self._reader(shard).read([number - first])[0])
        except (ValueError, RuntimeError) as error:  # the latter are the reader's
            raise ValueError(f"{self._paths[shard]}: {error}") from error

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            reader = self._open.pop(shard, None)
            if reader is None:
                while len(self._open) >= (self._most_open or most_open_shards()):
                    self._open.popitem(last=False)  # a thread that still reads it closes it
                first = self._ends[shard - 1] if shard else 0
                reader = open_shard(self._paths[shard], records=self._ends[shard] - first)
            self._open[shard] = reader
            return reader

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what a worker process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"ShardRecords({len(self._paths)} shards, {len(self)} records)"


def most_open_shards() -> int:
    """Returns how many shards a source may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 8))
