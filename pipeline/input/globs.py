"""Globs on this machine: each real file once, also where symbolic links lead in circles or to a file by two names."""

import glob
import os
from collections.abc import Iterator


def find_local_matches(pattern: str) -> list[str]:
    """Returns the files that a glob matches, in alphabetical order; `**` stands for folders at any depth.

    A folder is entered once, by a name without links where it has one; so is a file taken.
    """
    by_file: dict[str, str] = {}
    for path in _matches(pattern):
        real = os.path.realpath(path)
        known = by_file.setdefault(real, path)
        if (os.path.abspath(path) != real, path) < (os.path.abspath(known) != real, known):
            by_file[real] = path
    return sorted(by_file.values())


def _matches(pattern: str) -> Iterator[str]:
    parts = pattern.split("/")
    if "**" not in parts:
        yield from filter(os.path.isfile, glob.iglob(pattern))
        return
    at = parts.index("**")
    rest = "/".join(part for part in parts[at + 1 :] if part) or "*"
    head = "/".join(parts[:at]) if at else "."
    for base in glob.glob(head or "/"):
        for folder in _folders_under(base):
            inside = glob.escape(folder if at or folder == "." else os.path.relpath(folder))
            yield from _matches(rest if inside == "." and not at else os.path.join(inside, rest))


def _folders_under(base: str) -> Iterator[str]:
    """Yields a folder and those below it, each once; links are followed after all that is reached without them.

    Folders whose name begins with a dot are left out, as `**` does.
    """
    seen: set[str] = set()
    waiting = [base]
    while waiting:
        links: list[str] = []
        for start in waiting:
            for folder, names, _ in os.walk(start):
                if (real := os.path.realpath(folder)) in seen:
                    names.clear()
                    continue
                seen.add(real)
                yield folder
                names[:] = sorted(name for name in names if not name.startswith("."))
                links += [path for name in names if os.path.islink(path := os.path.join(folder, name))]
        waiting = [path for path in links if os.path.realpath(path) not in seen]
