"""Launching on Google Cloud Dataflow: checks before the launch, and our package and its libraries for the workers."""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from oddsmill.schemas.errors import Refused
from oddsmill.schemas.process.temporary import lasting_folder
from oddsmill.schemas.stores import check_access, is_remote

_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_STORE_CLIENTS = ("gcsfs", "s3fs")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def names_dataflow(flags: Sequence[str]) -> bool:
    """Tells whether Beam's options ask for Dataflow, without importing Beam, which takes the name in several forms."""
    runners = [
        flag.partition("=")[2] if "=" in flag else after
        for flag, after in pairwise([*flags, ""])
        if flag.partition("=")[0] == "--runner"
    ]
    return bool(runners) and "dataflow" in runners[-1].lower()


def check_launch(flags: Sequence[str], paths: Sequence[str]) -> None:
    """Refuses at once what Beam and Google's clients would find out in minutes.

    Args:
      flags: Beam's options.
      paths: The files and folders that the workers read and write.

    Raises:
      Refused: Workers on other machines cannot reach a file, or there is no network, or there are no credentials.
    """
    for path in paths:
        if not is_remote(path):
            raise Refused(f"DataflowRunner: {path} is on this machine, where no worker sees it; copy it to gs://")
    if "--no_auth" not in flags:
        check_access(["gs://", *paths], anonymous=False)


def dataflow_defaults(flags: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Returns the options to add to those given, each only where it is not given.

    Args:
      flags: The options given.
      options: The same options as Beam parses them.

    Raises:
      Refused: An option that Dataflow needs is missing, or there is nothing that the workers could install.
    """
    for name in ("project", "region", "temp_location"):
        if not options.get(name):
            raise Refused(f"DataflowRunner needs --{name}; see docs/howto/run_on_dataflow.md")
    given = {flag.removeprefix("--").partition("=")[0] for flag in flags if flag.startswith("--")}
    added: list[str] = []
    if "number_of_worker_harness_threads" not in given:
        # Dataflow starts a process for each core. A second thread in it would hold a second shard in memory and
        # gain no time, since the tokenizer already works outside the interpreter lock.
        added.append("--number_of_worker_harness_threads=1")
    if "job_name" not in given:
        added.append("--job_name=oddsmill-preprocess")
    if not given & {"sdk_container_image", "setup_file"}:
        if not _PROJECT.is_file():
            raise Refused(
                "DataflowRunner: this oddsmill was not started from a checkout, so there is no package to send to the "
                "workers; give --sdk_container_image (see Dockerfile), or start from a checkout"
            )
        added.append(f"--setup_file={_PROJECT}")
        if "requirements_file" not in given:
            added.append(f"--requirements_file={_write_requirements()}")
            # The workers download them, for their own platform; the launcher would download them for its own.
            added.append("--requirements_cache=skip")
    return added


def worker_requirements() -> list[str]:
    """Returns what a worker installs: the libraries of stage one at the versions here, since bytes depend on them.

    The clients of stores come along where they are installed. Beam itself is in the worker's image.
    """
    names = {name for name in _STORE_CLIENTS if importlib.util.find_spec(name)}
    for line in importlib.metadata.requires("oddsmill") or []:
        requirement, _, marker = line.partition(";")
        extra = _EXTRA.search(marker)
        if extra is None or extra.group(1) == "pipeline":
            name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
            if "platform_machine" not in marker or importlib.util.find_spec(name):  # not every machine has these
                names.add(name)
    return [f"{name}=={importlib.metadata.version(name)}" for name in sorted(names - {"apache-beam", "oddsmill"})]


def check_libraries(versions: dict[str, str]) -> None:
    """Checks that a worker has the libraries that the launcher has.

    Args:
      versions: Version by name, as at the launcher.

    Raises:
      Refused: A version differs.
    """
    found = {name: _installed_version(name) for name in versions}
    if found != versions:
        raise Refused(
            f"a worker has {found}, the launcher {versions}: the bytes may differ. Build the worker image of the "
            "launcher's versions (Dockerfile)"
        )


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write_requirements() -> str:
    path = os.path.join(lasting_folder(), "requirements.txt")
    Path(path).write_text("".join(f"{line}\n" for line in worker_requirements()), encoding="utf-8")
    return path
