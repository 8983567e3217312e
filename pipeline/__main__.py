"""The command line of stage one: python -m pipeline VERB …"""

import sys
from collections.abc import Sequence

from pipeline.config import PreprocessConfig
from schemas.errors import Refused, run_command
from schemas.settings import load_settings

USAGE = """\
usage: python -m pipeline VERB …

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

python -m pipeline VERB --help lists the settings of a verb."""


def main(arguments: Sequence[str]) -> None:
    """Runs one verb.

    Raises:
      Refused: an unknown verb, or what the verb refuses.
    """
    verb, *rest = arguments or ["--help"]
    if verb in ("--help", "-h", "help"):
        print(USAGE)
    elif verb == "run":
        ours, beam_arguments = _split(rest)
        config = load_settings(PreprocessConfig, ours, command="python -m pipeline run")
        from pipeline.run import preprocess

        preprocess(config, beam_arguments=beam_arguments)
    elif verb == "plan":
        from pipeline.budget import PlanConfig, print_plan

        print_plan(load_settings(PlanConfig, _without_beam(rest), command="python -m pipeline plan"))
    elif verb == "explain" and any(argument.startswith("--dump") for argument in rest):
        from pipeline.dump import DumpConfig, explain_dump

        explain_dump(load_settings(DumpConfig, rest, command="python -m pipeline explain"))
    elif verb == "explain":
        from pipeline.explanation import ExplainConfig, print_explanation

        print_explanation(load_settings(ExplainConfig, _without_beam(rest), command="python -m pipeline explain"))
    elif verb == "inspect":
        from pipeline.inspection import InspectConfig, inspect_dataset

        inspect_dataset(load_settings(InspectConfig, rest, command="python -m pipeline inspect", positional="dataset"))
    elif verb == "verify":
        from pipeline.verification import VerifyConfig, verify_dataset

        verify_dataset(load_settings(VerifyConfig, rest, command="python -m pipeline verify", positional="dataset"))
    elif verb == "report":
        from pipeline.report import ReportConfig, write_report

        write_report(load_settings(ReportConfig, rest, command="python -m pipeline report", positional="dataset"))
    else:
        verbs = "run, plan, explain, inspect, verify, report"
        raise Refused(f"no verb {verb!r}; there are {verbs}. python -m pipeline --help says more")


def _without_beam(arguments: Sequence[str]) -> list[str]:
    ours, beam_arguments = _split(arguments)
    if beam_arguments:
        raise Refused(f"-- {' '.join(beam_arguments)}: only run uses Beam; leave this out")
    return ours


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and after a bare `--`."""
    arguments = list(arguments)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
