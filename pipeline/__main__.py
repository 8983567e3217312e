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
  inspect OUT    rows of OUT, tokens coloured by branch; --json for programs
  verify OUT     check OUT against its manifest

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
    elif verb == "inspect":
        from pipeline.inspection import InspectConfig, inspect_dataset

        inspect_dataset(load_settings(InspectConfig, rest, command="python -m pipeline inspect", positional="dataset"))
    elif verb == "verify":
        from pipeline.verification import VerifyConfig, verify_dataset

        verify_dataset(load_settings(VerifyConfig, rest, command="python -m pipeline verify", positional="dataset"))
    else:
        raise Refused(f"no verb {verb!r}; there are run, inspect, verify. python -m pipeline --help says more")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and after a bare `--`."""
    arguments = list(arguments)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
