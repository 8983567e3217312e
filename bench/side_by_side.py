"""What the benchmarks that measure several sides in turns let be chosen."""

import argparse

from bench.preference_texts import TEXTS


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser that knows `data`, `rounds`, `core` and `file`; described by the first line of a module's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--data", choices=[*TEXTS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured, in turn")
    parser.add_argument("--core", type=int, default=0, help="the core that all run on")
    parser.add_argument("--file", action="store_true", help="file the page in bench/results, too")
    return parser


def chosen_texts(data: str) -> list[str]:
    """Names of `TEXTS`."""
    return list(TEXTS) if data == "both" else [data]


def page_name(what: str, data: str) -> str:
    return what if data == "both" else f"{what}-{data}"
