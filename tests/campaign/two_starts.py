"""Starts two processes of one run that differ in one setting, drawn: both are refused soon, and nothing is trained."""

import contextlib
import dataclasses
import random
import subprocess
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oddsmill.schemas.command_line.reading import load_settings
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import facts_of, setting_types
from oddsmill.train.config.train_config import TrainConfig
from tests.campaign.harness import Attack, Attempt, Case
from tests.campaign.train_kills import output_of, start, write_inputs

LONGEST_S = 120.0  # the start of two processes on a busy machine, and their end
OTHERS = {"run_dir": "elsewhere", "lora.target_modules": "q_proj", "frozen_parameters": "[norm]"}


def other_value(rng: random.Random, name: str, kind: Any, default: Any) -> str:
    """Returns another value of a setting as the command line has it, which may be one that the setting refuses."""
    if name in OTHERS:
        return OTHERS[name]
    kinds = [part for part in (kind, *typing.get_args(kind)) if part is not type(None)]
    choices = [
        choice for part in kinds if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)
    ]
    choices = [choice for choice in choices if choice != default]
    if choices:
        return str(rng.choice(choices))
    if bool in kinds:
        return str(not default).lower()
    if int in kinds:
        return str((default or 0) + rng.choice((1, 2, 4)))
    if float in kinds:
        return str((default or 0.0) + rng.choice((0.001, 0.25, 0.5)))
    return "another"


@contextlib.contextmanager
def prepare_attack(folder: Path) -> Iterator[Attempt]:
    """Yields the function that starts two processes and looks at how they end."""
    arguments = write_inputs(folder)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    names = [(name, kind) for name, kind in setting_types(TrainConfig) if not name.startswith("distributed.")]

    def attempt(case: Case) -> None:
        run_dir = folder / f"run-{case.seed}"
        of_first = load_settings(TrainConfig, [*arguments, f"--run_dir={run_dir}"], command="")
        while True:  # one whose own settings are refused joins nobody, and the other waits for it as for a late one
            name, kind = case.rng.choice(names)
            default = defaults.get(name)
            other = f"--{name}={other_value(case.rng, name, kind, None if default is dataclasses.MISSING else default)}"
            kept = [argument for argument in arguments if not argument.startswith(f"--{name}=")]
            of_second = [*kept, other] if name == "run_dir" else [*kept, other, f"--run_dir={run_dir}"]
            with contextlib.suppress(Refused):
                if load_settings(TrainConfig, of_second, command="") != of_first:
                    break
        case.did(f"process 1 has {other}")
        began = time.monotonic()
        started = start(folder, arguments, run_dir, 2, of_second=of_second)
        codes = []
        for process in started:
            try:
                codes.append(process.wait(max(began + LONGEST_S - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                for each in started:
                    each.kill()
                    each.wait()
                case.expect(False, f"process {started.index(process)} hangs")
        printed = [output_of(run_dir, index).read_text(errors="replace") for index in range(2)]
        case.expect(not any("Traceback" in text for text in printed), "\n---\n".join(printed)[-4000:])
        if codes == [0, 0]:
            may_change = facts_of(TrainConfig, name.partition(".")[0]).may_change
            case.expect("the processes of this run differ" not in "".join(printed), "\n---\n".join(printed)[-4000:])
            case.saw(f"taken: {name}{' (may change)' if may_change else ''}")
            return
        case.expect(all(codes), f"exit codes {codes}:\n" + "\n---\n".join(printed)[-4000:])
        named = [f"--{name}" in text or name in text for text in printed]
        case.expect(any(named), f"no message names {name}:\n" + "\n---\n".join(printed)[-4000:])
        case.saw("refused in both" if codes == [2, 2] else f"ended with {codes}")

    yield attempt


ATTACK = Attack(
    "two processes that differ in a setting are both refused by its name, within two minutes",
    prepare=prepare_attack,
    longest_s=400,
)
