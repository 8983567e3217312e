"""The command line of stage one: oddsmill pipeline VERB …"""

import sys
from collections.abc import Sequence

from oddsmill.schemas.command_line.reading import read_command_line
from oddsmill.schemas.errors import Refused, run_command
from oddsmill.schemas.process.ending import run_process

USAGE = """\
usage: oddsmill pipeline VERB …

  run [--config FILE.yaml] --source.path=FILES --tokenizer=FOLDER --output=OUT [-- BEAM OPTIONS]
                 preference rows -> packed rows of token ids in OUT
  plan …         same settings; from a sample, what each max_length keeps, cuts, pads; a row_length
  explain … --row=N
                 same settings; every decision on one source row
  explain --dump=FILE
                 the pairs of a training step that was not finite, from the trainer's dump
  inspect OUT    rows of OUT, tokens coloured by branch; --json for programs
  verify OUT     check OUT against its manifest
  report OUT     OUT/report.html: lengths, drops, checks, sample rows, in one file

oddsmill pipeline VERB --help lists the settings of a verb."""


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit code of the command."""
    return run_command(lambda: run_verb(arguments), prints_result=[*arguments[:1]] not in (["run"], ["report"]))


def run_verb(arguments: Sequence[str]) -> None:
    """Runs one verb.

    Raises:
      Refused: an unknown verb, or what the verb refuses.
    """
    verb, *rest = arguments or ["--help"]
    if verb in ("--help", "-h", "help"):
        print(USAGE)
    elif verb == "run":
        from oddsmill.pipeline.config import PreprocessConfig

        ours, beam_arguments = _split(rest)
        config = read_command_line(PreprocessConfig, ours, command="oddsmill pipeline run")
        from oddsmill.pipeline.run import preprocess

        preprocess(config, beam_arguments=beam_arguments)
    elif verb == "plan":
        from oddsmill.pipeline.commands.plan import PlanConfig, print_plan

        print_plan(read_command_line(PlanConfig, _without_beam(rest), command="oddsmill pipeline plan"))
    elif verb == "explain" and any(argument.startswith("--dump") for argument in rest):
        from oddsmill.pipeline.commands.explain_dump import DumpConfig, explain_dump

        explain_dump(read_command_line(DumpConfig, rest, command="oddsmill pipeline explain"))
    elif verb == "explain":
        from oddsmill.pipeline.commands.explain import ExplainConfig, print_explanation

        print_explanation(read_command_line(ExplainConfig, _without_beam(rest), command="oddsmill pipeline explain"))
    elif verb == "inspect":
        from oddsmill.pipeline.commands.inspect import InspectConfig, inspect_dataset

        inspect_dataset(
            read_command_line(
                InspectConfig,
                rest,
                command="oddsmill pipeline inspect",
                positional="dataset",
                messages_to_stderr=True,
            )
        )
    elif verb == "verify":
        from oddsmill.pipeline.commands.verify import VerifyConfig, verify_dataset

        verify_dataset(read_command_line(VerifyConfig, rest, command="oddsmill pipeline verify", positional="dataset"))
    elif verb == "report":
        from oddsmill.pipeline.commands.report import ReportConfig, write_report

        write_report(read_command_line(ReportConfig, rest, command="oddsmill pipeline report", positional="dataset"))
    else:
        verbs = "run, plan, explain, inspect, verify, report"
        raise Refused(f"no verb {verb!r}; there are {verbs}. oddsmill pipeline --help says more")


def _without_beam(arguments: Sequence[str]) -> list[str]:
    ours, beam_arguments = _split(arguments)
    if beam_arguments:
        raise Refused(f"-- {' '.join(beam_arguments)}: only run uses Beam; leave this out")
    return ours


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments at a bare `--`."""
    arguments = list(arguments)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(run_process(lambda: main(sys.argv[1:])))
