"""Beam's options, the choice of runner, and quiet while it works. Beam is imported here, in 2.5 s, and not before."""

import contextlib
import difflib
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oddsmill.pipeline import progress
from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.pipeline.dataflow import dataflow_defaults, names_dataflow
from oddsmill.pipeline.output.spill import spilling
from oddsmill.pipeline.resolved_run import ResolvedRun
from oddsmill.schemas.console import held_back
from oddsmill.schemas.errors import Refused, find_refusal

if TYPE_CHECKING:
    import apache_beam as beam

EMBEDDED_RUNNER = "FnApiRunner"
# These talk to a job service that may know more options than Beam does here.
_RUNNERS_WITH_OWN_OPTIONS = ("PortableRunner", "FlinkRunner", "SparkRunner")


def beam_flags(config: PreprocessConfig, beam_arguments: Sequence[str]) -> list[str]:
    """The options of Beam, as on a command line; of one that is given twice the last counts."""
    return [*_as_flags(config.beam_options), *beam_arguments]


def make_pipeline(config: PreprocessConfig, beam_arguments: Sequence[str]) -> "beam.Pipeline":
    """An empty pipeline on the runner that the options name.

    Args:
      beam_arguments: options of Beam, as on a command line; they win over `config.beam_options`.

    Raises:
      Refused: an option or a runner that Beam does not know, or a set of options that its runner does not take.
    """
    with _quiet():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    flags = beam_flags(config, beam_arguments)
    options = _parse_options(flags)
    # Named, because Beam's default runner first tries to download a program to run on, which can hang.
    runner = options["runner"] or EMBEDDED_RUNNER
    if names_dataflow(flags):
        flags += dataflow_defaults(flags, options)
    if runner == EMBEDDED_RUNNER:
        if options["direct_num_workers"] != 1 and not any("direct_running_mode" in flag for flag in flags):
            flags.append("--direct_running_mode=multi_threading")
        # A call to the tokenizer spreads its texts over the cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return beam.Pipeline(runner=runner, options=PipelineOptions(flags))
    except (ValueError, ImportError, AttributeError) as error:
        raise Refused(f"Beam: {' '.join(str(error).split())}") from error


def run_graph(p: "beam.Pipeline", resolved: ResolvedRun) -> None:
    """Runs the graph of a resolved run to its end on a pipeline of `make_pipeline`.

    Raises:
      Refused: what a worker refused.
    """
    from oddsmill.pipeline.build import build

    embedded, spill = type(p.runner).__name__ == EMBEDDED_RUNNER, None
    try:
        with contextlib.ExitStack() as console:
            if embedded:  # other runners show their own
                if _in_threads(p):
                    spill = console.enter_context(spilling())
                    console.enter_context(progress.shown())
                console.enter_context(_quiet())
            with p:
                build(p, resolved, spill)
    except Exception as error:
        message = find_refusal(error)
        if message is None:
            raise
        raise Refused(message) from None  # what Beam wraps around it says nothing more


def _in_threads(p: "beam.Pipeline") -> bool:
    """Whether the workers are threads of this process."""
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
    """Beam's view of the flags. Beam itself only warns of those that it does not know.

    Raises:
      Refused: an unknown option, or a value of the wrong type.
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
    """Keeps Beam's log and the tracebacks that its worker threads print off the console.

    What matters of them is in the exception that the run ends with.
    """
    with held_back("apache_beam"), contextlib.redirect_stderr(io.StringIO()):
        yield
