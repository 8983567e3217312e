"""Running a graph with Beam: its options, the choice of runner, and a quiet console meanwhile.

Beam takes 2.5 s to import, so it is imported here and not before.
"""

import contextlib
import difflib
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oddsmill.pipeline import progress
from oddsmill.pipeline.config import DatasetSettings, PreprocessConfig
from oddsmill.pipeline.dataflow import dataflow_defaults, names_dataflow
from oddsmill.pipeline.input.parts import Input
from oddsmill.pipeline.lost_workers import lost_workers_told
from oddsmill.pipeline.output.spill import open_spill
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.pipeline.workers.cores import connectable_processes, usable_cores
from oddsmill.pipeline.workers.pool import WorkerPool
from oddsmill.schemas.console import held_back, log
from oddsmill.schemas.errors import Refused, RunFailed, find_ending, one_line, require
from oddsmill.schemas.process.children import kill_descendants
from oddsmill.schemas.process.signals import on_end
from oddsmill.schemas.process.temporary import temporary_folder
from oddsmill.schemas.process.threads import READER_THREADS, NoThreads, check_threads, shortage_of_threads
from oddsmill.schemas.stores import scheme_of

if TYPE_CHECKING:
    import apache_beam as beam

EMBEDDED_RUNNER = "FnApiRunner"
_BYTES_OF_PROCESS = 4 << 20  # of text; half a second's work: starting a process takes about as long
_THREADS, _THREADS_OF_WORKER, _THREADS_OF_PROCESS = READER_THREADS + 16, 28, 8
# These runners talk to a job service that may know more options than Beam does here.
_RUNNERS_WITH_OWN_OPTIONS = ("PortableRunner", "FlinkRunner", "SparkRunner")


def beam_flags(config: PreprocessConfig, beam_arguments: Sequence[str]) -> list[str]:
    """Returns Beam's options as on a command line; the last one counts of an option that is given twice."""
    return [*_as_flags(config.beam_options), *beam_arguments]


def make_pipeline(config: PreprocessConfig, beam_arguments: Sequence[str]) -> "beam.Pipeline":
    """Makes an empty pipeline on the runner that the options name.

    Args:
      beam_arguments: Beam's options, as on a command line; they win over `config.beam_options`.

    Raises:
      Refused: Beam does not know an option or the runner, or the runner does not take the options.
    """
    with _quiet():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    flags = beam_flags(config, beam_arguments)
    options = _parse_options(flags)
    # The runner is named because Beam's default one first tries to download a program to run on, which can hang.
    runner = options["runner"] or EMBEDDED_RUNNER
    if names_dataflow(flags):
        flags += dataflow_defaults(flags, options)
    if runner == EMBEDDED_RUNNER:
        if options["direct_num_workers"] != 1 and not any("direct_running_mode" in flag for flag in flags):
            flags.append("--direct_running_mode=multi_threading")
        flags.append("--no_pipeline_type_check")  # Beam infers types from bytecode, a tenth of a second a run
        # A call to the tokenizer spreads its texts over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        p = beam.Pipeline(runner=runner, options=PipelineOptions(flags))
    except (ValueError, ImportError, AttributeError) as error:
        raise Refused(f"Beam: {one_line(error)}") from error
    os.rmdir(p.local_tempdir)  # see `temporary_for`
    return p


@contextlib.contextmanager
def temporary_for(p: "beam.Pipeline") -> Iterator[None]:
    """Gives a pipeline a temporary folder of ours: Beam's own outlives a run that is killed, and one that never ran."""
    with temporary_folder() as p.local_tempdir:
        yield


def run_graph(p: "beam.Pipeline", resolved: ResolvedRun, pool: WorkerPool | None = None) -> None:
    """Runs the graph of a resolved run to its end on a pipeline of `make_pipeline`.

    Args:
      pool: worker processes that were started for it; they have ended when this returns.

    Raises:
      Refused: A worker refused something; the message is the worker's.
      RunFailed: So did a worker say.
    """
    from oddsmill.pipeline.build import build

    embedded, spill = type(p.runner).__name__ == EMBEDDED_RUNNER, None
    try:
        with contextlib.ExitStack() as console:
            if embedded:  # other runners show their own
                if _in_threads(p):
                    spill = pool.spill if pool else console.enter_context(open_spill())
                    console.enter_context(progress.shown())
                else:
                    console.enter_context(lost_workers_told())
                console.enter_context(on_end(kill_descendants))  # workers may be processes
                console.enter_context(_quiet())
            if pool:
                console.callback(pool.close)
                pool.begin(resolved)
            with p:
                build(p, resolved, spill, pool.key if pool else None, alone=_other_workers(p) is None)
    except Exception as error:
        ending = find_ending(error)
        if ending is None and (shortage := shortage_of_threads(error)):
            raise RunFailed(shortage) from None
        if ending is None:
            raise
        raise ending from None  # what Beam wraps around it says nothing more


def count_workers(config: DatasetSettings, inputs: Sequence[Input], p: "beam.Pipeline | None" = None) -> int:
    """Returns how many processes of ours a run is spread over; 1: it stays in this one.

    Args:
      p: None where no option of Beam is given.

    Raises:
      Refused: a number is given, and it could have no effect.
    """
    given = config.dataset_num_proc
    problem = None
    if p is not None:
        problem = _other_workers(p)
    if any((source.format or "").startswith("__main__:") for source in config.sources):
        problem = "no other process finds the functions of __main__"
    if config.output is not None and _is_of_this_process(config.output):
        problem = f"no other process finds --output={config.output}"
    if problem is not None:
        require(given in (None, 1), "dataset_num_proc", given, f"{problem}; leave --dataset_num_proc out")
        return 1
    wanted = given or max(1, min(usable_cores(), sum(each.text_bytes for each in inputs) // _BYTES_OF_PROCESS))
    allowed = connectable_processes()
    require(
        given is None or given <= allowed,
        "dataset_num_proc",
        given,
        f"the limit on open files allows {allowed}; raise it (ulimit -n), or give fewer",
    )
    if wanted > allowed:
        log.info(f"processes  {allowed} of {wanted}: the limit on open files allows no more; raise it (ulimit -n)")
    return min(wanted, allowed)


def _is_of_this_process(path: str) -> bool:
    """Tells whether no other process finds a path: it is in memory, or in a store that this program has added."""
    if (scheme := scheme_of(path)) is None:
        return False
    from fsspec.registry import known_implementations, registry

    return scheme == "memory" or (scheme in registry and scheme not in known_implementations)


def _other_workers(p: "beam.Pipeline") -> str | None:
    """Returns what workers other than ours a pipeline has; None where it has none."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    if type(p.runner).__name__ != EMBEDDED_RUNNER:
        return f"--runner={p.options.view_as(StandardOptions).runner} has workers of its own"
    if not _in_threads(p):
        return "--direct_running_mode=multi_processing has workers of its own"
    if p.options.view_as(DirectOptions).direct_num_workers != 1:
        return "--direct_num_workers asks for Beam's workers"
    return None


def _threads_of(p: "beam.Pipeline") -> int:
    """Returns about how many threads a run takes with all its workers, as measured: most belong to libraries."""
    from apache_beam.options.pipeline_options import DirectOptions

    workers = p.options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1
    if _in_threads(p):
        return _THREADS + _THREADS_OF_WORKER * (workers - 1)
    return _THREADS * (workers + 1)


def within_threads(p: "beam.Pipeline", resolved: ResolvedRun, pool: WorkerPool | None) -> WorkerPool | None:
    """Returns the pool, of as many processes as there are threads for; None where this process does all.

    Raises:
      RunFailed: there are too few for this process, or for the number of processes that was given.
    """
    if type(p.runner).__name__ != EMBEDDED_RUNNER:  # others have workers of their own
        return pool
    try:
        return _within_threads(p, resolved, pool)
    except NoThreads as error:
        raise RunFailed(error.strerror) from None


def _within_threads(p: "beam.Pipeline", resolved: ResolvedRun, pool: WorkerPool | None) -> WorkerPool | None:
    own = _threads_of(p)
    try:
        check_threads(own + (_threads_of_pool(pool.count, resolved) if pool else 0), "preprocessing")
        return pool
    except NoThreads as error:
        fitting = [n for n in range(1, pool.count if pool else 1) if own + _threads_of_pool(n, resolved) <= error.found]
        if pool is None:
            raise
        if resolved.config.dataset_num_proc is not None:
            raise NoThreads(f"{error.strerror}, or give fewer processes (--dataset_num_proc)", error.found) from None
        if error.found < own:
            check_threads(own, "preprocessing")  # says how many one process takes
        count = max(fitting, default=1)
        log.info(f"processes  {count} of {pool.count}: {error.strerror}")
        if count > 1:
            pool.keep(count)
            return pool
        pool.close()
        return None


def _threads_of_pool(count: int, resolved: ResolvedRun) -> int:
    """Returns about how many threads so many processes take: each some, and a reader for each shard at a time."""
    shards = sum(resolved.num_shards.values())
    return _THREADS_OF_PROCESS * count + READER_THREADS * min(count, shards)


def _in_threads(p: "beam.Pipeline") -> bool:
    """Tells whether the workers are threads of this process."""
    from apache_beam.options.pipeline_options import DirectOptions

    mode: str = p.options.view_as(DirectOptions).direct_running_mode
    return mode != "multi_processing"


def _as_flags(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                yield f"--{name}"
            elif item is not False:
                yield f"--{name}={item}"


def _parse_options(flags: list[str]) -> dict[str, Any]:
    """Returns the options as Beam parses them. Beam itself only warns of those that it does not know.

    Raises:
      Refused: An option is unknown, or a value has the wrong type.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    complaint = io.StringIO()
    try:
        with _quiet(), contextlib.redirect_stderr(complaint):
            known: dict[str, Any] = PipelineOptions(flags).get_all_options()
            given = PipelineOptions(flags).get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        problem = complaint.getvalue().strip().rpartition("error: ")[2]
        raise Refused(f"Beam options: {problem}") from error
    unknown = sorted(given.keys() - known.keys())
    if unknown and known["runner"] not in _RUNNERS_WITH_OWN_OPTIONS:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean --{nearest[0]}?" if nearest else ""
        raise Refused(f"Beam does not know the option --{unknown[0]}{hint}")
    return known


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam's log, and the tracebacks that its worker threads print, off the console.

    The exception that the run ends with says what matters of them.
    """
    with held_back("apache_beam"), contextlib.redirect_stderr(io.StringIO()):
        yield
