"""What the Flex Template's launcher starts: its parameters are settings of ours, the rest is Beam's."""

import sys

from oddsmill.pipeline.__main__ import main

OURS = ("config", "source.path", "source.format", "tokenizer", "output", "max_length", "max_prompt_length")


def arrange(arguments: list[str]) -> list[str]:
    """The launcher passes all parameters in one list; ours belong before the bare `--`."""
    ours = [argument for argument in arguments if argument.removeprefix("--").partition("=")[0] in OURS]
    beams = [argument for argument in arguments if argument not in ours]
    return ["run", *ours, "--", "--runner=DataflowRunner", *beams]


if __name__ == "__main__":
    sys.exit(main(arrange(sys.argv[1:])))
