"""Messages are logged under one name, silent until they are shown."""

import logging
import subprocess
import sys

from oddsmill.schemas.console import log, show_messages


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
    assert capsys.readouterr().out == "100% of {rows}\nwarning: a row is long\n"


def test_the_level_and_the_stream_are_the_callers_choice(capsys):
    show_messages("warning", to_stderr=True)
    log.info("hidden")
    log.warning("shown")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: shown\n")


def test_other_loggers_are_left_alone():
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    show_messages("error")
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
