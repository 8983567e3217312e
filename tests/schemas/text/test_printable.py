"""What a terminal would obey is shown, not sent."""

import json
import sys
import unicodedata

import pytest

from oddsmill.schemas.text.printable import printable, printable_json, printable_line, printable_message


def test_text_of_every_language_stays_and_what_a_terminal_obeys_does_not():
    sound = "a\tb\nc é 漢 עברית פ\u200cר 👩\u200d🔬 \u00a0"
    assert printable(sound) == sound
    assert printable("\x1b[2J \x1b]52;c;aGk=\x07 \r \x7f \x9b31m \ud800") == (
        r"\x1b[2J \x1b]52;c;aGk=\x07 \r \x7f \x9b31m \ud800"
    )
    assert printable("\u202eevil\u202c \u2066x\u2069 \u200f \u2028") == r"\u202eevil\u202c \u2066x\u2069 \u200f \u2028"


def test_no_control_character_and_no_change_of_direction_is_left():
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        is_obeyed = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        if (is_obeyed or unicodedata.bidirectional(character) in turning) and character not in "\t\n":
            assert printable(character).isascii() and printable(character).isprintable(), hex(code)


def test_a_name_stays_on_its_line_and_a_message_forges_no_other():
    assert printable_line("rows\nok  all is well\t.jsonl") == r"rows\nok  all is well\t.jsonl"
    forged = "rows\nok  all is well: no such file\n  as it is\n\nrefused: x"
    assert printable_message(forged) == "rows\n  ok  all is well: no such file\n  as it is\n\n  refused: x"


@pytest.mark.parametrize("text", ["\x1b[2J\x00\n", "\x7f\x9b\u202e\u2028\ud800", "é 漢 \U0001f600", '"\\'])
def test_json_keeps_its_value(text: str):
    line = printable_json({text: [text, 1]})
    assert json.loads(line) == {text: [text, 1]}
    assert line == printable(line) and "\n" not in line
    assert printable_json("漢") == '"漢"'
