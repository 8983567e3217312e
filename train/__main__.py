"""`oddsmill train`: reads the settings and calls one function."""

import sys
from collections.abc import Sequence

from oddsmill.schemas.command_line.reading import read_command_line
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, run_command
from oddsmill.schemas.process.ending import run_process

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

    from oddsmill.train.checkpoint.run_files import RunFiles
    from oddsmill.train.loop import train
    from oddsmill.train.loss.choice import preference_loss
    from oddsmill.train.monitor.samples import side_by_side
    from oddsmill.train.parallel.failures import ends_for_all

    with ends_for_all():
        evaluation = train(config)
    if jax.process_index() > 0:  # only the first process is sure to see the files
        return
    files = RunFiles(config.run_dir)
    samples = side_by_side(files.samples)
    for block in samples:
        log.info("")
        for line in block:
            log.info(line)
    told = {"reward accuracy": ("rewards/accuracies", ".3f"), "loss": ("loss", ".4f")}
    told |= {name: (name, "+.4f") for name in preference_loss(config).headline}
    held_out = [
        f"{title} {evaluation[f'eval/{name}']:{digits}}"
        for title, (name, digits) in told.items()
        if f"eval/{name}" in evaluation
    ]
    if held_out:
        log.info("")
        log.info(f"held out   {', '.join(held_out)}")
    export = config.lora.export if config.lora else "merged"
    made = {"model": files.model} if export != "adapter" else {}
    made |= {"adapter": files.adapter} if export != "merged" else {}
    made |= {"curves": files.curves, "metrics": files.metrics}
    if samples:
        made["samples"] = files.samples
    for name, path in made.items():
        log.info(f"{name:<10} {path}")


def evaluate(arguments: Sequence[str]) -> None:
    """Prints the metrics of a split as JSON."""
    from oddsmill.train.config.evaluate import EvaluateConfig

    config = read_command_line(EvaluateConfig, arguments, command="oddsmill train eval", messages_to_stderr=True)
    from oddsmill.train.commands.evaluate import run_evaluate
    from oddsmill.train.parallel.device_errors import explain_device_errors
    from oddsmill.train.parallel.failures import ends_for_all

    with ends_for_all(), explain_device_errors():
        run_evaluate(config)


def generate(arguments: Sequence[str]) -> None:
    """Answers prompts, a line of JSON an answer."""
    from oddsmill.train.config.generate import GenerateConfig

    config = read_command_line(GenerateConfig, arguments, command="oddsmill train generate", messages_to_stderr=True)
    from oddsmill.train.commands.generate import run_generate
    from oddsmill.train.parallel.device_errors import explain_device_errors
    from oddsmill.train.parallel.failures import ends_for_all

    with ends_for_all(), explain_device_errors():
        run_generate(config)


def export(arguments: Sequence[str]) -> None:
    """Writes a checkpoint of a run as a Hugging Face folder."""
    from oddsmill.train.config.export import ExportConfig

    config = read_command_line(ExportConfig, arguments, command="oddsmill train export")
    from oddsmill.train.parallel.device_errors import explain_device_errors
    from oddsmill.train.parallel.failures import ends_for_all
    from oddsmill.train.run_folder import export_checkpoint

    with ends_for_all(), explain_device_errors():
        step = export_checkpoint(config)
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

    return run_command(command, prints_result=arguments[0] not in ("run", "export"))


if __name__ == "__main__":
    sys.exit(run_process(lambda: main(sys.argv[1:])))
