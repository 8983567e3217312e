from array import array
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsmill.pipeline.formats.pairs import NOTHING, Notes, PreferencePair
from oddsmill.pipeline.tokens.differences import are_written_alike, common_length, note_differences

LONG = "A long answer that goes on, word after word. " * 9


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Yes.", "No.", NOTHING),
        ("Yes.", "Yes!", NOTHING),
        ("Yes.", " Yes. ", Notes.WHITE_SPACE_ALONE),
        ("Yes.\n\nSo", "Yes. So", Notes.WHITE_SPACE_ALONE),
        ("to day", "today", Notes.WHITE_SPACE_ALONE),
        ("a\u00a0b", "a b", Notes.WHITE_SPACE_ALONE),
        (" " * 99 + "Yes", "Yes", Notes.WHITE_SPACE_ALONE),
        (LONG, LONG.replace(" ", "  "), Notes.WHITE_SPACE_ALONE),
        (LONG, LONG.replace(" ", "  ") + "and", NOTHING),
        ("Yes.", "YES.", Notes.CASE_ALONE),
        ("Yes, so", "yes,  SO", Notes.CASE_ALONE),
        ("Straße", "STRASSE", Notes.CASE_ALONE),
        ("ß", "SS", Notes.CASE_ALONE),
        (LONG, LONG.upper(), Notes.CASE_ALONE),
        (LONG + "a", LONG.upper() + "b", NOTHING),
        ("Да", "да", Notes.CASE_ALONE),
        ("", "Yes", NOTHING),
    ],
)
def test_a_difference_that_hardly_anybody_sees_is_noted(chosen: str, rejected: str, expected: Notes):
    for sides in ((chosen, rejected), (rejected, chosen)):
        assert note_differences(PreferencePair("Q", *sides)) is expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "alike"),
    [
        ("Yes", "Yes", True),
        ("Yes", "yes", False),
        ("Caf\u00e9", "Cafe\u0301", True),
        ("\u212b", "\u00c5", True),
        ("ﬁ", "fi", False),  # another form of compatibility is another text
        ("한", "\u1112\u1161\u11ab", True),
    ],
)
def test_forms_of_unicode_are_no_difference(chosen: str, rejected: str, alike: bool):
    assert are_written_alike(PreferencePair("Q", chosen, rejected)) is alike


@given(common=st.lists(st.integers(0, 2)), ends=st.tuples(*[st.lists(st.integers(0, 2))] * 2))
def test_the_common_length_is_that_of_the_common_prefix(common: list[int], ends: tuple[list[int], list[int]]):
    first, second = (common + end for end in ends)
    alike = takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))
    size = len(list(alike))
    assert common_length(array("i", first), array("i", second)) == size
    assert common_length("".join(map(str, first)), "".join(map(str, second))) == size
