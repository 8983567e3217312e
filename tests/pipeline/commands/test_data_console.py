"""The console of texts that came as data."""

import io
import re

import pytest
from rich.table import Table
from rich.text import Text

from oddsmill.pipeline.commands.data_console import DataConsole

HOSTILE = "[bold]\x1b[2J\x1b]52;c;aGk=\x07\x9b\u202e\r :smile:"
SHOWN = (r"[bold]\x1b[2J\x1b]52;c;aGk=", r"\x9b\u202e", ":smile:")  # Rich itself leaves out \a and \r


def test_nothing_of_the_data_reaches_the_terminal_and_colours_do():
    file = io.StringIO()
    console = DataConsole(file=file, force_terminal=True, width=200, color_system="standard")
    table = Table(box=None)
    table.add_column(Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    for renderable in (HOSTILE, Text(HOSTILE, style="cyan"), table):
        console.print(renderable)
    console.rule(Text(HOSTILE))
    written = file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert plain != written and plain.isascii() is False  # colours and the line of the rule
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", plain)
    lines = plain.split("\n")
    assert all(part in lines[number] for number in (0, 1, 4) for part in SHOWN), plain


def test_a_reader_that_has_left_is_an_error_of_the_output():
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        DataConsole(file=Left()).print("a")
