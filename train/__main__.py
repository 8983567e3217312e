"""`oddsmill train`: reads the settings and calls one function."""

import os
import sys
from collections.abc import Sequence

from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, run_command
from oddsmill.schemas.settings import read_command_line

_USAGE = """usage: oddsmill train VERB [--config FILE.yaml] [--key=value ...]

verbs:
  run         train on preprocessed rows; the same command again goes on where it stopped
  eval        measure a model, or a checkpoint of a run, on preprocessed rows
  generate    answer prompts with a model; a line of JSON an answer
  plan        compile a run's step for devices that are not here: what fits, memory, FLOPs, collectives
  export      write a checkpoint of a run as a Hugging Face folder, or its adapters as PEFT's

oddsmill train VERB --help lists the settings of a verb."""


def run(arguments: Sequence[str]) -> None:
    """Trains, then says what was made and where."""
    from oddsmill.train.config.train_config import TrainConfig

    config = read_command_line(TrainConfig, arguments, command="oddsmill train run")
    import jax

    from oddsmill.train.loop import ADAPTER_FOLDER, EXPORT_FOLDER, train
    from oddsmill.train.monitor.curves import CURVES_NAME
    from oddsmill.train.monitor.metrics import METRICS_NAME
    from oddsmill.train.monitor.samples import SAMPLES_NAME, side_by_side
    from oddsmill.train.parallel.device_errors import left_at_once

    with left_at_once():
        evaluation = train(config)
    if jax.process_index() > 0:  # one process has the console
        return
    samples = side_by_side(config.run_dir)
    if samples:
        log.info(f"\n{samples}")
    if evaluation:
        log.info(
            f"\nheld out   reward accuracy {evaluation['eval/rewards/accuracies']:.3f}, "
            f"loss {evaluation['eval/loss']:.4f}, log_odds_chosen {evaluation['eval/log_odds_chosen']:+.4f}"
        )
    export = config.lora.export if config.lora else "merged"
    made = {"model": EXPORT_FOLDER} if export != "adapter" else {}
    made |= {"adapter": ADAPTER_FOLDER} if export != "merged" else {}
    made |= {"curves": CURVES_NAME, "metrics": METRICS_NAME}
    if samples:
        made["samples"] = SAMPLES_NAME
    for name, file in made.items():
        log.info(f"{name:<10} {os.path.join(config.run_dir, file)}")


def evaluate(arguments: Sequence[str]) -> None:
    """Prints the metrics of a split as JSON."""
    from oddsmill.train.config.evaluate import EvaluateConfig

    config = read_command_line(EvaluateConfig, arguments, command="oddsmill train eval", messages_to_stderr=True)
    from oddsmill.train.commands.evaluate import run_evaluate
    from oddsmill.train.parallel.device_errors import left_at_once, told_clearly

    with left_at_once(), told_clearly():
        run_evaluate(config)


def generate(arguments: Sequence[str]) -> None:
    """Answers prompts, a line of JSON an answer."""
    from oddsmill.train.config.generate import GenerateConfig

    config = read_command_line(GenerateConfig, arguments, command="oddsmill train generate", messages_to_stderr=True)
    from oddsmill.train.commands.generate import run_generate
    from oddsmill.train.parallel.device_errors import left_at_once, told_clearly

    with left_at_once(), told_clearly():
        run_generate(config)


def export(arguments: Sequence[str]) -> None:
    """Writes a checkpoint of a run as a Hugging Face folder."""
    from oddsmill.train.config.export import ExportConfig

    config = read_command_line(ExportConfig, arguments, command="oddsmill train export")
    import jax

    from oddsmill.train.commands.export import export_run
    from oddsmill.train.parallel.device_errors import left_at_once, told_clearly

    with left_at_once(), told_clearly():
        step = export_run(config)
    if jax.process_index() == 0:
        log.info(f"{'adapter' if config.adapter else 'model':<10} {config.out} (step {step})")


def plan(arguments: Sequence[str]) -> None:
    """Prints what the step of a run takes of devices that are not here."""
    from oddsmill.train.config.plan import PlanConfig

    config = read_command_line(PlanConfig, arguments, command="oddsmill train plan")
    import jax

    # What accelerators this machine has stay free: another process may train on them.
    jax.config.update("jax_platforms", "cpu")
    from oddsmill.train.planning.plan import make_plan
    from oddsmill.train.planning.report import report

    print(report(make_plan(config)))


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    verbs = {"run": run, "eval": evaluate, "generate": generate, "plan": plan, "export": export}

    def command() -> None:
        if arguments[0] not in verbs:
            raise Refused(f"unknown verb {arguments[0]!r}; known: {', '.join(verbs)}")
        verbs[arguments[0]](arguments[1:])

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
