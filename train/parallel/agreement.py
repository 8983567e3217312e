"""The processes of a run compare what they were started with, before they do anything that they do together.

Each takes its own settings, its own copy of the data, its own code. Where these differ the processes wait for each
other for ever, or worse, end well with a model that none of the settings describe.
"""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from oddsmill.schemas.errors import Refused
from oddsmill.train.parallel.coordination import is_joined, num_processes, process_index
from oddsmill.train.parallel.environment import code_facts, device_facts, jax_facts
from oddsmill.train.parallel.failures import agreed
from oddsmill.train.parallel.processes import gather_bytes

# The fact -> its value, JSON. Names are read by the user: `--beta`, `jax`, `the manifest of --data`.
Facts = Mapping[str, Any]
_LONGEST_VALUE, _MOST_DIFFERENCES = 120, 12
# A network disk may show a new file to another machine this much later.
_FOLDER_PATIENCE_S = 60.0


def check_agreement(
    command: str, settings: Any, *, apart: Collection[str] = (), facts: Callable[[], Facts] = dict
) -> None:
    """Refuses processes that were started differently, by the name and the values of what differs, in all of them.

    Called by all processes directly after they have joined; one process alone always agrees.

    Args:
      command: which one this is, such as `oddsmill train run`.
      settings: an object of a settings class.
      apart: dotted names of settings, or of groups of them, that may differ: paths whose content is among `facts`.
      facts: returns those of the content of these paths, and whatever else must be equal; one process reads none.

    Raises:
      Refused: they differ.
      RefusedElsewhere, ProcessLost: another process cannot tell what it was started with.
    """
    if not is_joined():
        if jax.process_count() > 1:
            raise Refused("the processes are not joined: give --distributed.detect_cluster=true")
        return
    own = {
        "the command": command,
        "--distributed.num_processes": num_processes(),
        **{
            f"--{name}": value
            for name, value in settings_by_name(settings)
            if not any(name == other or name.startswith(f"{other}.") for other in ("distributed", *apart))
        },
        **facts(),
        **code_facts(),
        **jax_facts(),
    }
    check_same(own)
    check_same(device_facts())  # by themselves: processes that differ in other things may wait for each other here


def check_same(own: Facts) -> None:
    """Refuses facts that are not the same in all processes. All of them must call this alike.

    Raises:
      Refused: they differ, in all processes.
      RefusedElsewhere, ProcessLost: another process refused, failed or is gone.
    """
    gathered = [json.loads(message) for message in gather_bytes(json.dumps(own).encode())]
    differing = differences(gathered)
    if differing:
        more = f"; and {len(differing) - _MOST_DIFFERENCES} more" if len(differing) > _MOST_DIFFERENCES else ""
        raise agreed(
            Refused(
                f"the processes of this run differ in {'; '.join(differing[:_MOST_DIFFERENCES])}{more}. "
                "Start all of them alike; only --distributed.process_id is each one's own"
            )
        )


def settings_by_name(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the value of every setting, such as ("mesh.fsdp", 2); a group that is null has one."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_by_name(value, f"{prefix}{field.name}.")
        elif field.name == "run_dir" and value is not None:  # relative paths are of folders that may be others
            yield prefix + field.name, os.path.abspath(value)
        else:
            yield prefix + field.name, value


def differences(gathered: Sequence[Facts]) -> list[str]:
    """Returns, for each fact that is not the same in all processes, its name and who has which value."""
    names = dict.fromkeys(name for facts in gathered for name in facts)
    found = []
    for name in names:
        holders: dict[str, list[int]] = {}
        for process, facts in enumerate(gathered):
            holders.setdefault(_shown(facts[name]) if name in facts else "nothing", []).append(process)
        if len({json.dumps(facts.get(name), sort_keys=True) for facts in gathered}) > 1:
            found.append(f"{name}: " + ", ".join(f"{value} in {_processes(own)}" for value, own in holders.items()))
    return found


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def _processes(numbers: Sequence[int]) -> str:
    """Returns the numbers of processes in words; they may be hundreds."""
    if len(numbers) == 1:
        return f"process {numbers[0]}"
    shown = ", ".join(map(str, numbers[:4]))
    return f"processes {shown}{f' and {len(numbers) - 4} more' if len(numbers) > 4 else ''}"


def check_folder_is_shared(folder: Path, *, setting: str) -> None:
    """Refuses a folder that is another one in another process, such as one on a disk of each machine.

    Raises:
      Refused: some process does not see what the first one writes there, in all of them.
    """
    if not is_joined():
        return
    probe = folder / gather_bytes(f".seen-by-all-{secrets.token_hex(8)}".encode())[0].decode()
    if process_index() == 0:
        probe.touch()
    gather_bytes(b"")
    last_moment = time.monotonic() + _FOLDER_PATIENCE_S
    while not (is_seen := probe.exists()) and time.monotonic() < last_moment:
        time.sleep(0.5)
    blind = [process for process, seen in enumerate(gather_bytes(bytes([is_seen]))) if seen == b"\0"]
    if process_index() == 0:
        probe.unlink()
    if blind:
        raise agreed(
            Refused(
                f"--{setting}={folder}: {_processes(blind)} sees another folder there than process 0; all processes "
                "must have it on a disk that they share"
            )
        )
