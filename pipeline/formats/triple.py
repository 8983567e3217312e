"""The format `triple`: three strings prompt, chosen, rejected."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.chat.messages import OPENERS, decode_messages
from oddsmill.schemas.drops import Dropped, DropReason


def read(row: Row, source: SourceConfig) -> list[PreferencePair]:
    """Takes the three texts as they stand.

    Raises:
      Dropped: one is missing or no text, is a conversation that somebody stored as text, or names a column.
    """
    pair = PreferencePair(row.text("prompt"), row.text("chosen"), row.text("rejected"))
    if not OPENERS.isdisjoint([text.lstrip()[:1] for text in pair]):
        for name, text in pair._asdict().items():
            if decode_messages(name, text, source.forms) is not None:
                problem = f"{name} is messages as JSON text; --source.format=messages reads it"
                raise Dropped(DropReason.WRONG_TYPE, problem)
    if pair.chosen in row.values and pair.rejected in row.values:
        raise Dropped(DropReason.WRONG_TYPE, f"chosen and rejected name the columns {pair.chosen} and {pair.rejected}")
    return [pair]


FORMAT = RowFormat(read)
