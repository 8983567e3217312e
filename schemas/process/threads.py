"""Threads that cannot be had: libraries answer that by a wait for ever, an abort or a crash, so it is tried before."""

import errno
import functools
import threading

# A reader of shards has a pool of so many, whatever it is asked for, and waits for ever for those that it does not get.
READER_THREADS = 64
_REFUSED_BY_PYTHON = "can't start new thread"


class NoThreads(OSError):
    """The system starts no more threads for this user or this container.

    Attributes:
      found: How many could be started at a time.
    """

    def __init__(self, message: str, found: int = 0):
        super().__init__(errno.EAGAIN, message)
        self.found = found


def check_threads(count: int, what: str) -> None:
    """Tries whether so many threads can be had at a time, which takes some milliseconds.

    Args:
      count: How many; some more than are needed.
      what: What needs them, for the message: "preprocessing".

    Raises:
      NoThreads: They cannot.
    """
    over, started = threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise NoThreads(
            f"{what} takes about {count} threads, and only {len(started)} can be started here; raise the limit "
            "(ulimit -u, or the container's limit of processes), or end other programs",
            len(started),
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()


@functools.cache
def check_reader_threads() -> None:
    """Comes before the first reader of shards of a process.

    Raises:
      NoThreads: A reader would wait for ever.
    """
    check_threads(READER_THREADS + 2, "reading shards")


def shortage_of_threads(error: BaseException) -> str | None:
    """Returns the message for an error that says, or repeats, that no thread could be started; None for any other."""
    if isinstance(error, NoThreads):
        return error.strerror
    if _REFUSED_BY_PYTHON in str(error):
        return (
            "no more threads can be started here; raise the limit (ulimit -u, or the container's limit of processes), "
            "or end other programs"
        )
    return None
