"""A process that tries cases with little memory: where one hangs or dies, another process takes the next."""

import importlib
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.campaign.harness import Broken


class Child:
    """Calls functions of a module in a process of its own.

    Args:
      module: is imported there; `ready(folder)` is called first and gives what each function takes as its first.
      folder: for `ready`.
      memory_bytes: how much memory the process may ask for beyond what it has when it is ready.
      longest_s: how long a call may take.
    """

    def __init__(self, module: str, folder: Path, *, memory_bytes: int, longest_s: float):
        self._arguments = (module, str(folder), memory_bytes)
        self._longest_s = longest_s
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None

    def call(self, function: str, *arguments: Any) -> Any:
        """Returns what the function returns.

        Raises:
          Broken: it hangs, or its process dies.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        self._pipe.send((function, arguments))
        if not self._pipe.poll(self._longest_s):
            self.close()
            raise Broken(f"hangs for more than {self._longest_s:.0f} s")
        try:
            is_broken, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            raise Broken(f"the process dies with {code}") from None
        if is_broken:
            raise Broken(value)
        return value

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        try:
            assert self._pipe.poll(300)
            self._pipe.recv()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None


@contextmanager
def child(module: str, folder: Path, *, memory_bytes: int = 2 << 30, longest_s: float = 60) -> Iterator[Child]:
    """Yields a child, which ends at the end."""
    process = Child(module, folder, memory_bytes=memory_bytes, longest_s=longest_s)
    try:
        yield process
    finally:
        process.close()


def _serve(pipe: Any, module: str, folder: str, memory_bytes: int) -> None:
    functions = importlib.import_module(module)
    first = functions.ready(Path(tempfile.mkdtemp(dir=folder)))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(None)
    while True:
        name, arguments = pipe.recv()
        try:
            pipe.send((False, getattr(functions, name)(first, *arguments)))
        except Broken as broken:
            pipe.send((True, str(broken)))
