"""The format `triple`: three strings prompt, chosen, rejected."""

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.pairs import PreferencePair
from oddsmill.pipeline.formats.rows import Row, RowFormat
from oddsmill.schemas.chat.messages import OPENERS, decode_messages
from oddsmill.schemas.drops import Dropped, DropReason

_LABEL = 2  # characters of a label of an answer, such as A or 1


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
    columns = _columns_named(pair, row)
    if columns:
        raise Dropped(DropReason.WRONG_TYPE, f"chosen and rejected name the columns {columns[0]} and {columns[1]}")
    return [pair]


def _columns_named(pair: PreferencePair, row: Row) -> tuple[str, str] | None:
    """Returns the columns that hold the answers where the two sides are their names, or the ends of these: A and B."""
    if pair.chosen in row.values and pair.rejected in row.values:
        return pair.chosen, pair.rejected
    if max(len(pair.chosen), len(pair.rejected)) > _LABEL:
        return None
    ends, names = (pair.chosen.lower(), pair.rejected.lower()), {name.lower(): name for name in row.values}
    if not all(ends):
        return None
    stems = (name.removesuffix(ends[0]) for name in names if name.endswith(f"_{ends[0]}"))
    return next(((names[stem + ends[0]], names[stem + ends[1]]) for stem in stems if stem + ends[1] in names), None)


FORMAT = RowFormat(read)
