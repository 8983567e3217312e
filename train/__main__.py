"""`python -m train run`: reads the settings and calls one function."""

import os
import sys
from collections.abc import Sequence

from schemas.errors import Refused, run_command
from schemas.settings import load_settings

_USAGE = """usage: python -m train VERB [--config FILE.yaml] [--key=value ...]

verbs:
  run    train on preprocessed rows; the same command again goes on where it stopped

python -m train VERB --help lists the settings of a verb."""


def run(arguments: Sequence[str]) -> None:
    """Trains, then says what was made and where."""
    from train.config import TrainConfig

    config = load_settings(TrainConfig, arguments, command="python -m train run")
    from train.loop import train

    evaluation = train(config)
    for name, value in evaluation.items():
        print(f"{name:<24} {value:.4f}")
    print(
        f"model    {os.path.join(config.run_dir, 'export')}\n"
        f"metrics  {os.path.join(config.run_dir, 'metrics.jsonl')}\n"
        f"curves   {os.path.join(config.run_dir, 'curves.png')}"
    )


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    verbs = {"run": run}

    def command() -> None:
        if arguments[0] not in verbs:
            raise Refused(f"unknown verb {arguments[0]!r}; known: {', '.join(verbs)}")
        verbs[arguments[0]](arguments[1:])

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
