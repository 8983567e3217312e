"""The processes that run the chain: a server loads what they need once, and makes each of them by a fork.

They ignore the signals that end a command: the process that has started them ends them, and with it they end too.
"""

import dataclasses
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa

from oddsmill.pipeline import progress
from oddsmill.pipeline.chain import Chain, load_copy, write_shard_of
from oddsmill.pipeline.config import DatasetSettings
from oddsmill.pipeline.input.rows import RawRow
from oddsmill.pipeline.output.spill import read_block
from oddsmill.pipeline.resolved_run import ResolvedRun, with_engine
from oddsmill.pipeline.tokens.tokenizer import load_for_run
from oddsmill.schemas.drops import Origin
from oddsmill.schemas.engines.choice import EngineChoice
from oddsmill.schemas.errors import RunFailed
from oddsmill.schemas.process.children import end_with
from oddsmill.schemas.process.signals import ENDING
from oddsmill.schemas.process.streams import console_may_be_lost
from oddsmill.schemas.stores import is_remote

_THREADS = ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Handle = Callable[[str, tuple[Any, ...]], Any]
# The first message is the path of the modules, without which no other can be read.
# There is none where the process that has started this one was ended meanwhile.
COMMAND = """\
import pickle, sys
if sys.stdin.buffer.peek(1):
    sys.path[:] = pickle.load(sys.stdin.buffer)
    from oddsmill.pipeline.workers.loading import main
    main()
"""


class Setup(NamedTuple):
    """All that the server needs, but for the engine that it has chosen.

    Attributes:
      ends: the descriptors of the connections to the process that has started it, one a worker.
      spill: that of a file that the workers read.
      stores: what `settings_of_stores` returned.
    """

    resolved: ResolvedRun
    ends: Sequence[int]
    spill: int
    stores: Mapping[str, Any]


class Loading(NamedTuple):
    """The tokenizer that the run will need."""

    folder: Path
    config: DatasetSettings


class Answer(NamedTuple):
    """The answer of a worker to a job.

    Attributes:
      counts: what it adds to the counters of the progress.
      error: what the job raised, with its traceback as a note.
    """

    result: Any
    counts: dict[str, int]
    error: BaseException | None = None


def start(path: Sequence[str], descriptors: Sequence[int], tokenizer: Path | None = None) -> "subprocess.Popen[bytes]":
    """Starts a server; it imports what it needs and waits for messages.

    Args:
      path: where it finds modules: `sys.path` of the process that starts it.
      descriptors: those that its workers will use.
      tokenizer: a tokenizer.json that fastokens loads meanwhile.
    """
    # A worker works on one core: there is one for each. Without jemalloc's thread it may be forked.
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    environment |= dict.fromkeys(_THREADS, "1")
    command = [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]
    server = subprocess.Popen(
        [*command, "-P", "-c", COMMAND, str(os.getpid())],
        stdin=subprocess.PIPE, pass_fds=descriptors, env=environment,
    )  # fmt: skip
    tell(server, list(path))
    tell(server, tokenizer)
    return server


def tell(server: "subprocess.Popen[bytes]", message: Any) -> None:
    """Sends a message to a server: a `Loading`, a run that needs an engine, or a `Setup`, which is the last.

    Raises:
      OSError: it has ended.
    """
    assert server.stdin is not None
    server.stdin.write(pickle.dumps(message))
    server.stdin.flush()
    if isinstance(message, Setup):
        server.stdin.close()


def main(early: threading.Thread | None) -> None:
    """Does what the messages on the standard input say; returns when all workers have ended.

    Its exit code is that of the first worker that did not end well.

    Args:
      early: a thread that loads what the messages will need.
    """
    end_with(int(sys.argv[1]))
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # what a user's function starts does not inherit a handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a worker ends without a flush
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 as in a run without workers, where Beam's step says what matters
    engine: EngineChoice | None = None
    with console_may_be_lost():  # or rows would be dropped by a function that prints
        try:
            while not isinstance(message := pickle.load(sys.stdin.buffer), Setup):
                if isinstance(message, Loading):
                    _load(message)
                    continue
                if early is not None:
                    early.join()
                engine = _choose_engine(*message)
        except EOFError:
            return  # nothing is to be done
        if engine is not None:
            message = message._replace(resolved=dataclasses.replace(message.resolved, engine=engine))
        _serve_all(message)


def _load(loading: Loading) -> None:
    """Loads the tokenizer that will be needed, while the run is still looked at; what is wrong shows when it is."""
    if not any(":" in (source.format or "") for source in loading.config.sources):
        _look_for_pandas()
    with suppress(Exception):
        load_for_run(loading.folder, loading.config)
    import pyarrow.compute  # noqa: F401 every worker needs it, and would take 30 ms to import it for itself


class _NoPandas:
    """A finder of modules that lets others find all but pandas."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError


def _look_for_pandas() -> None:
    """Lets pyarrow find no pandas, for which it looks once: to import it takes 0.2 s, and no array of ours needs it."""
    sys.meta_path.insert(0, _NoPandas)
    pa.array([0])
    sys.meta_path.remove(_NoPandas)


def _choose_engine(resolved: ResolvedRun, end: int) -> EngineChoice:
    """Answers with the engine of a run. What it prepares as it encodes first, workers have by their fork."""
    try:
        engine = with_engine(resolved).engine
    except BaseException as error:
        _fail(Connection(end), error)
    with Connection(os.dup(end)) as connection:
        connection.send_bytes(pickle.dumps(Answer(engine, {})))
    return engine


def _may_fork() -> bool:
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:  # nothing is mounted there
        return False


def settings_of_stores(output: str) -> dict[str, Any]:
    """Returns what the program has set for the stores of fsspec, of which an output may be in one."""
    if not is_remote(output):
        return {}
    from fsspec import config

    return dict(config.conf)


def _serve_all(setup: Setup) -> None:
    try:
        if setup.stores:
            from fsspec import config

            config.conf.update(setup.stores)
        handle = _handler(Chain(setup.resolved, load_copy(setup.resolved), compression="lz4"), setup.resolved)
    except BaseException as error:
        _fail(Connection(setup.ends[-1]), error)
    try:
        if len(setup.ends) == 1:
            serve(Connection(setup.ends[0]), handle)
        elif _may_fork():
            gc.freeze()  # a collection would write to the pages that all of them share
            workers = [_fork(end, setup.ends, handle) for end in setup.ends]
        else:  # a library has threads, which a fork loses
            servers = [start(sys.path, [end, setup.spill]) for end in setup.ends]
            for server, end in zip(servers, setup.ends, strict=True):
                tell(server, setup._replace(ends=[end]))
            workers = [server.pid for server in servers]
    except OSError as error:
        _fail(Connection(setup.ends[-1]), not_started(error))  # no worker has this connection yet
    _close(setup.ends)
    os._exit(_wait(workers))


def _fail(connection: Connection, error: BaseException) -> NoReturn:
    """Answers whatever is asked with an error, and ends this process with its workers."""
    connection.send_bytes(pickle.dumps(Answer(None, {}, _portable(error))))
    os._exit(1)


def not_started(error: OSError) -> RunFailed:
    """Returns the failure of a run whose workers cannot be started."""
    return RunFailed(
        f"worker processes cannot be started ({error.strerror}); raise the limit (ulimit -u, or the container's limit "
        "of processes), or give fewer (--dataset_num_proc)"
    )


def _fork(end: int, ends: Sequence[int], handle: Handle) -> int:
    server = os.getpid()
    if worker := os.fork():
        return worker
    try:
        end_with(server)
        _close([other for other in ends if other != end])
        serve(Connection(end), handle)
    finally:
        os._exit(1)


def _close(ends: Sequence[int]) -> None:
    """Closes descriptors that are another process's: the end of a connection shows only where one process has it."""
    for end in ends:
        os.close(end)


def _wait(workers: Sequence[int]) -> int:
    """Waits for the end of all workers; returns 0, or how the first ended that did not end well, as shells have it."""
    for _ in workers:
        _, status = os.wait()
        if code := os.waitstatus_to_exitcode(status):
            return code if code > 0 else 128 - code
    return 0


def serve(connection: Connection, handle: Handle) -> None:
    """Does jobs, one after the other, until the connection is closed, which ends the process at once.

    A job is read while another is done, so that whoever sends one waits for none.
    """
    jobs: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    try:
        threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    except RuntimeError as error:  # there are no more threads
        _fail(connection, error)
    while True:
        kind, *arguments = jobs.get()
        try:
            answer = Answer(handle(kind, tuple(arguments)), progress.take())
        except BaseException as error:  # a panic of Rust's is no Exception
            answer = Answer(None, {}, _portable(error))
        connection.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection, jobs: "SimpleQueue[tuple[Any, ...]]") -> None:
    try:
        while True:
            jobs.put(pickle.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """Returns an error that can be sent, with its traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker process:\n{trace}")
    return error


def _handler(chain: Chain, resolved: ResolvedRun) -> Handle:
    def rows(file: int, numbers: Sequence[int], contents: Sequence[Any], problems: Sequence[str | None]) -> Any:
        made = zip(numbers, contents, problems, strict=True)
        return chain.add([RawRow(Origin(file, number), content, problem) for number, content, problem in made])

    jobs: dict[str, Callable[..., Any]] = {
        "rows": rows,
        "finish": chain.finish,
        "shard": lambda shard, blocks: write_shard_of(resolved, shard, map(read_block, blocks)),
    }
    return lambda kind, arguments: jobs[kind](*arguments)
