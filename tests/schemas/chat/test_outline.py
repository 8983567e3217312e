import operator

import pytest

from oddsmill.schemas.chat.outline import Guard, Outline, Outlines, Parts, Slot
from oddsmill.schemas.errors import RunFailed

TRIMMED = Slot(1, (("strip", None),))


def test_contents_take_the_places_of_others():
    outline = Outline(("<s>", Slot(0), TRIMMED, "|", Slot(0)), (), longest=9)
    assert outline.fill(["a", " b "]) == "<s>ab|a"
    assert outline.fill(["", "x\n"]) == "<s>x|"
    assert outline.serves(["a" * 9, "b"])
    assert not outline.serves(["a" * 10, "b"])


def test_texts_of_other_answers_are_not_served():
    guards = [Guard(operator.contains, ((Slot(0),), ("x",)), False), Guard(bool, ((TRIMMED,),), True)]
    outline = Outline((Slot(0), Slot(1)), guards, longest=9)
    served = {contents for contents in (("a", "b"), ("axe", "b"), ("a", "  ")) if outline.serves(contents)}
    assert served == {("a", "b")}


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (("a", Slot(0), "b"), ("c", Slot(1), "d")),
        (("a", Slot(0)), ("bc", Slot(1), "d")),
        (("a", Slot(0), "bc"), (Slot(1), "d")),
        (("a",), (Slot(0), "bc", Slot(1), "d")),
        ((), ("a", Slot(0), "bc", Slot(1), "d")),
        (("a", Slot(0), "bx"), None),
        (("a", Slot(0), "bc", Slot(0)), None),
        (("a", Slot(0), "bc", "x"), None),
        (("a", TRIMMED), None),
        (("a", Slot(0), "bc", Slot(1), "d", Slot(2)), None),
    ],
)
def test_an_outline_may_go_on_where_another_ends(start: Parts, rest: Parts | None):
    found = Outline(("a", Slot(0), "bc", Slot(1), "d"), (), 9).after(Outline(start, (), 9))
    assert (found and found.parts) == rest


class Learning:
    """Outlines of dialogues of one content, and how often one was traced."""

    def __init__(self) -> None:
        self.outlines, self.traced = Outlines(), 0

    def learn(self, content: str, text: str) -> None:
        def trace() -> Outline:
            self.traced += 1
            return Outline((Slot(0),), (Guard(bool, ((Slot(0),),), True),), longest=9999)

        self.outlines.learn("shape", [content], text, trace)

    def finds(self, content: str, shape: str = "shape") -> bool:
        return self.outlines.find(shape, [content]) is not None


def test_only_an_outline_that_gives_what_the_template_gave_is_kept():
    learning = Learning()
    assert not learning.finds("a")
    learning.learn("a", "another")
    assert not learning.finds("a")
    learning.learn("a", "a")
    assert learning.finds("b")
    assert not learning.finds("")
    assert not learning.finds("b", "another shape")
    for _ in range(99):
        learning.learn("", "")
    assert learning.traced == 1 + 16


def test_what_is_kept_is_bounded():
    outlines = Outlines()
    for number in range(1100):
        outlines.learn(number, ["a"], "a", lambda: Outline((Slot(0),), (), longest=9))
    outlines.learn("long", ["a"] * 101, "a", lambda: pytest.fail("it is traced"))
    assert sum(outlines.find(number, ["b"]) is not None for number in range(1100)) == 1024


def test_the_characters_that_are_kept_are_bounded():
    outlines, text = Outlines(), "x" * (1 << 20)
    for number in range(100):
        guards = [Guard(operator.contains, ((Slot(0), text), (text,)), True)] * 2
        outlines.learn(number, ["a"], f"{text}a", lambda guards=guards: Outline((text, Slot(0)), guards, longest=9))
    assert sum(outlines.find(number, ["b"]) is not None for number in range(100)) == 21


def test_one_dialogue_in_a_thousand_is_compared_and_a_difference_ends_the_run():
    learning = Learning()
    learning.learn("a", "a")
    assert [size for size in range(1, 2500) if not learning.finds("a" * size)] == [1000, 2000]
    learning.learn("a" * 1000, "a" * 1000)
    with pytest.raises(RunFailed, match=r"an outline of the chat template gives 'a{200}'…, and the template 'b'…"):
        learning.learn("a" * 1000, "b")
    assert learning.traced == 1
