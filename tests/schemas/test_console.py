"""Messages are logged under one name, silent until they are shown."""

import contextlib
import logging
import re
import subprocess
import sys
from pathlib import Path

from oddsmill.schemas.console import held_back, log, show_messages


def test_a_library_is_quiet():
    code = "from oddsmill.schemas.console import log; log.info('one'); log.warning('two'); log.error('three')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_command_shows_its_messages_once_and_says_which_are_warnings(capsys):
    show_messages()
    show_messages()
    log.debug("hidden")
    log.info("100% of {rows}")
    log.warning("a row is long")
    log.info("not read: \x1b[2J, \ud800")
    assert capsys.readouterr().out == "100% of {rows}\nwarning: a row is long\nnot read: \\x1b[2J, \\ud800\n"


def test_the_level_and_the_stream_are_the_callers_choice(capsys):
    show_messages("warning", to_stderr=True)
    log.info("hidden")
    log.warning("shown")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: shown\n")


def test_a_message_is_shown_once_where_a_library_configured_the_root_logger():
    code = (
        "import logging; from oddsmill.schemas.console import log, show_messages;"
        "logging.basicConfig(level='INFO'); show_messages(); log.info('one')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("one\n", "")


def test_other_loggers_are_left_alone():
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    show_messages("error")
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before


def test_a_library_is_held_back_within_the_body_alone(caplog):
    above, below = logging.getLogger("some_library"), logging.getLogger("some_library.part")
    with held_back("some_library", below="error"):
        below.warning("hidden")
        above.error("passes")
        logging.getLogger("another").warning("another's")
    below.warning("shown again")
    assert caplog.messages == ["passes", "another's", "shown again"]
    with contextlib.suppress(ZeroDivisionError), held_back("some_library"):
        above.error("hidden, for the exception says it")
        raise ZeroDivisionError
    assert (above.level, len(caplog.messages)) == (logging.NOTSET, 3)


def test_no_library_is_silenced_for_the_whole_program():
    root = Path(__file__).parents[2]
    code = {
        path: path.read_text(encoding="utf-8")
        for stage in ("pipeline", "train")
        for path in (root / stage).rglob("*.py")
    }
    silencing = re.compile(r"logging\.disable\(|(?<!\blog)\.setLevel\(")  # `log` is our own
    assert not [path for path, text in code.items() if silencing.search(text)]
