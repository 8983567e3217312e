"""Turns in transcripts; tests/pipeline/formats/test_transcript.py has the forms of whole rows."""

import pytest

from oddsmill.schemas.chat.transcript import read_transcript

ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: q\n\nAssistant:", [ASKED]),
        ("\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant:", [ASKED, ANSWERED, ASKED]),
        ("\n\nHuman: q\n\nAssistant: a", [ASKED, ANSWERED]),
        ("Human: q\nAssistant:", [ASKED]),
        ("Human: q", None),
        ("What does Human: mean?", None),
        ("", None),
    ],
)
def test_a_text_is_a_transcript_by_how_it_begins_and_ends(text: str, turns: list | None):
    assert read_transcript(text) == turns
