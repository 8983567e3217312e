"""The processes of ours that a run on one machine is spread over, as the process sees them that has started them."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from oddsmill.pipeline import progress
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.output.spill import open_spill
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.workers.worker import Answer, Loading, Setup, not_started, settings_of_stores, start, tell
from oddsmill.schemas.console import log
from oddsmill.schemas.engines.choice import EngineChoice
from oddsmill.schemas.errors import RunFailed
from oddsmill.schemas.process.signals import ENDING, on_end

_AHEAD = 2  # jobs that a worker has at most: it finds the next one when it has done the last
_PATIENCE_S = 10.0
_ENGINE = object()  # the note of the question for the engine
_BUFFER_BYTES = 1 << 20  # a batch of rows, so that whoever sends it does not wait
_open: dict[int, "WorkerPool"] = {}


class WorkerPool:
    """Worker processes that do jobs in any order. One thread at a time may use it.

    Attributes:
      key: names the pool in this process, so that what is pickled can hold it.
      spill: the key of a spill file that all workers can read.
    """

    def __init__(self, count: int, spill: int, tokenizer: Path | None = None):
        """Starts `count` processes, which wait for `begin`.

        Args:
          tokenizer: a tokenizer.json that fastokens loads in them.

        Raises:
          OSError: they cannot be started.
        """
        pairs = [socket.socketpair() for _ in range(count)]
        for ours, theirs in pairs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.spill = spill
        self._ends = [theirs.fileno() for _, theirs in pairs]
        with _signals_blocked():
            self._server = start(sys.path, [*self._ends, spill], tokenizer)
        for _, theirs in pairs:
            theirs.close()
        self._sockets = [ours for ours, _ in pairs]
        self._workers = [Connection(os.dup(ours.fileno())) for ours in self._sockets]
        self._notes: dict[Connection, deque[Any]] = {worker: deque() for worker in self._workers}
        self._engine: EngineChoice | None = None
        self._serves = False
        self.key = id(self)

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self._workers)

    def prepare(self, folder: Path, config: DatasetSettings) -> None:
        """Lets the processes load the tokenizer of a folder, which takes a second or two. Raises: as `begin`."""
        self._tell(Loading(folder, config))

    def choose_engine(self, resolved: ResolvedRun) -> None:
        """Lets a process of the pool choose the engine of a run while this one does something else.

        The first method that waits for an answer logs it, or raises what `with_engine` raises.
        """
        self._tell((resolved, self._ends[0]))
        self._notes[self._workers[0]].append(_ENGINE)

    @property
    def engine(self) -> EngineChoice:
        """The engine that was chosen; it is waited for."""
        while self._engine is None:
            list(self._receive())
        return self._engine

    def keep(self, count: int) -> None:
        """Lets there be fewer processes, before `begin`."""
        for own, worker in zip(self._sockets[count:], self._workers[count:], strict=True):
            own.close()
            worker.close()
        self._sockets, self._workers, self._ends = self._sockets[:count], self._workers[:count], self._ends[:count]

    def begin(self, resolved: ResolvedRun) -> None:
        """Tells the processes what run it is. Its output folder holds the tokenizer. They use the engine they chose.

        Raises:
          RunFailed: they are lost.
        """
        self._serves = True
        self._tell(Setup(resolved, self._ends, self.spill, settings_of_stores(resolved.output)))

    def _tell(self, message: Any) -> None:
        try:
            tell(self._server, message)
        except OSError as error:
            raise self._lost() from error

    def submit(self, *job: Any, note: Any = None) -> list[tuple[Any, Any]]:
        """Gives a job to the worker that has least to do, once one has room for it.

        Returns: notes and results of jobs that were done meanwhile.

        Raises:
          RunFailed: a worker is lost.
          Exception: what a job has raised.
        """
        done: list[tuple[Any, Any]] = []
        while (worker := min(self._workers, key=lambda each: len(self._notes[each]))) and (
            len(self._notes[worker]) == _AHEAD
        ):
            done += self._receive()
        self._send(worker, job, note)
        return done

    def drain(self) -> list[tuple[Any, Any]]:
        """Waits for all jobs. Returns and raises: as `submit`."""
        done: list[tuple[Any, Any]] = []
        while any(self._notes.values()):
            done += self._receive()
        return done

    def ask_each(self, *job: Any) -> list[Any]:
        """Lets every worker do a job when all others are done; returns their results."""
        assert not any(self._notes.values())
        for worker in self._workers:
            self._send(worker, job, None)
        return [result for _, result in self.drain()]

    def kill(self) -> None:
        """Ends the server, with which its workers end."""
        self._server.kill()

    def close(self) -> None:
        """Ends the processes, whatever they are doing; returns when they have ended, and can write nothing more."""
        if not self._serves or any(_ENGINE in notes for notes in self._notes.values()):
            self.kill()  # it loads something, or waits for a message
        for own in self._sockets:
            with suppress(OSError):
                own.shutdown(socket.SHUT_WR)  # each ends at once
        try:
            self._server.wait(_PATIENCE_S if self._sockets else None)
        except subprocess.TimeoutExpired:
            self.kill()
            self._server.wait()
        for own, worker in zip(self._sockets, self._workers, strict=True):
            own.close()
            worker.close()
        self._sockets, self._workers = [], []
        with suppress(OSError):
            assert self._server.stdin is not None
            self._server.stdin.close()

    def _send(self, worker: Connection, job: tuple[Any, ...], note: Any) -> None:
        self._notes[worker].append(note)
        try:
            worker.send_bytes(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> Iterator[tuple[Any, Any]]:
        """Waits for at least one answer."""
        for worker in connection.wait([worker for worker in self._workers if self._notes[worker]]):
            assert isinstance(worker, Connection)
            try:
                answer: Answer = pickle.loads(worker.recv_bytes())
            except (OSError, EOFError) as error:
                raise self._lost() from error
            note = self._notes[worker].popleft()
            progress.count(**answer.counts)
            if answer.error is not None:
                raise answer.error
            if note is _ENGINE:
                self._engine = answer.result
                log.info(f"engine     {self._engine}")
            else:
                yield note, answer.result

    def _lost(self) -> BaseException:
        """Returns what the workers were lost for: what a server says that could not start them, or how one ended."""
        for worker in self._workers:
            with suppress(OSError, EOFError):
                if worker.poll():  # one that still works sends nothing now
                    answer: Answer = pickle.loads(worker.recv_bytes())
                    if answer.error is not None:
                        return answer.error
        self.close()
        code = self._server.returncode
        number = -code if code < 0 else code - 128
        try:
            how = f"ended by {signal.Signals(number).name}"
        except ValueError:
            how = f"exit code {code}"
        return RunFailed(
            f"a worker process was lost ({how}). Was it killed for want of memory? Give fewer workers "
            "(--dataset_num_proc), and run again"
        )


@contextmanager
def started_pool(count: int, *, needed: bool = True, tokenizer: Path | None = None) -> Iterator[WorkerPool | None]:
    """Starts workers and ends them after the body; of fewer than two there is no use, and None is yielded.

    Args:
      tokenizer: a tokenizer.json that fastokens loads in them.
      needed: otherwise None is yielded where they cannot be started, and a line says so.

    Raises:
      RunFailed: they are needed, and cannot be started.
    """
    if count < 2:
        yield None
        return
    with ExitStack() as stack:
        spill = stack.enter_context(open_spill())
        try:
            pool = WorkerPool(count, spill, tokenizer)
        except OSError as error:
            if needed:
                raise not_started(error) from error
            log.info(f"processes  this one alone: no other can be started ({error.strerror})")
            yield None
            return
        _open[pool.key] = pool
        stack.callback(_open.pop, pool.key)
        stack.callback(pool.close)
        stack.enter_context(on_end(pool.kill))
        yield pool


def pool_of(key: int) -> WorkerPool:
    """Returns the open pool of a key."""
    return _open[key]


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keeps the signals that end a command from a process that the body starts, until it ignores them itself.

    A terminal sends them to all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
