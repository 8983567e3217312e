"""docs/reference/messages.md: every line of its tables is what the reader does."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.schemas.chat.messages import CALLS, read_message, read_turns
from oddsmill.schemas.chat.tools import read_tools, read_variables
from oddsmill.schemas.drops import Dropped, DropReason

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"
SECTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "Messages": (lambda value: read_turns("prompt", value), ""),
    "What a message holds": (read_message, ""),
    "Calls of tools": (read_message, '{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}'),
    "Tools": (read_tools, '{"type": "function", "function": {"name": "f"}}'),
    "Variables of the template": (read_variables, ""),
}


def lines() -> list[tuple[str, str, str]]:
    """The section, the form and the meaning of each line; a cell may name several forms."""
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for left, right in re.findall(r"^\| (`.*`) \| (.*) \|$", section, re.MULTILINE):
            found += [(title, form, right) for form in re.findall(r"`(.+?)`(?:, |$)", left)]
    return found


def test_every_section_has_lines():
    assert {title for title, _, _ in lines()} == {*SECTIONS, "Roles"}
    assert len(lines()) > 90


@pytest.mark.parametrize(("title", "form", "meaning"), [line for line in lines() if line[0] != "Roles"])
def test_a_form_gives_the_template_what_the_page_says(title: str, form: str, meaning: str):
    read, short = SECTIONS[title]
    value = json.loads(form.replace("…", short))
    if meaning in set(DropReason):
        with pytest.raises(Dropped, match=f"^{meaning}: "):
            read(value)
    else:
        assert json.dumps(read(value)) == json.dumps(json.loads(meaning.strip("`").replace("…", short)))


@pytest.mark.parametrize(("form", "meaning"), [line[1:] for line in lines() if line[0] == "Roles"])
def test_a_role_means_what_the_page_says(form: str, meaning: str):
    calls = '{"name": "f", "arguments": {}}'
    for name in (form, form.title(), form.replace("_", "-")):
        message = {"role": name, "content": calls}
        if meaning == DropReason.BAD_ROLES:
            with pytest.raises(Dropped, match="bad_roles"):
                read_message(message)
        else:
            read = read_message(message)
            assert read["role"] == re.findall(r"`(\w+)`", meaning)[0]
            assert ("tool_calls" in read) == (CALLS in meaning or "calls" in meaning)


def test_every_known_name_of_a_role_stands_on_the_page():
    from oddsmill.schemas.chat.messages import _ROLE_OF

    page = {form.replace("-", "_") for title, form, _ in lines() if title == "Roles"}
    assert set(_ROLE_OF) == page - {"narrator"}
