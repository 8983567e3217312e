import operator

import pytest

from oddsmill.schemas.chat.outline import Guard, Outline, Outlines, Slot, check
from oddsmill.schemas.errors import RunFailed

TRIMMED = Slot(1, (("strip", None),))


def test_contents_take_the_places_of_others():
    outline = Outline(("<", "s>", Slot(0), TRIMMED, "|", Slot(0)), (), longest=9)
    assert outline.render(["a", " b "]) == "<s>ab|a"
    assert outline.render(["", "x\n"]) == "<s>x|"
    assert outline.render(["a" * 10, "b"]) is None


def test_texts_of_other_answers_are_not_served():
    guards = [Guard(operator.contains, ((Slot(0),), ("x",)), False), Guard(bool, (("", TRIMMED),), True)]
    outline = Outline((Slot(0), Slot(1)), guards, longest=9)
    assert outline.render(["a", "b"]) == "ab"
    assert outline.render(["axe", "b"]) is None
    assert outline.render(["a", "  "]) is None


def test_only_an_outline_that_gives_what_the_template_gave_is_kept_and_few_are_tried():
    outlines, traced = Outlines(), []

    def learn(text: str) -> None:
        outlines.learn("shape", ["a"], text, lambda: traced.append(text) or Outline((Slot(0),), (), longest=9))

    assert outlines.render("shape", ["a"]) is None
    learn("another")
    assert outlines.render("shape", ["a"]) is None
    learn("a")
    assert outlines.render("shape", ["b"]) == "b"
    assert outlines.render("other", ["b"]) is None
    for _ in range(9):
        learn("a")
    assert len(traced) == 4


def test_one_rendering_in_a_thousand_is_compared_and_a_difference_ends_the_run():
    outlines = Outlines()
    assert sum(outlines.is_due() for _ in range(3000)) == 3
    check("a", "a")
    with pytest.raises(RunFailed, match="an outline of the chat template gives 'a'…, and the template 'b'…"):
        check("a", "b")
