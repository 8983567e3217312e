"""Rich's console for text that came as data: it lays out tables and colours, and sends nothing that data say."""

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from oddsmill.schemas.text.printable import printable


class DataConsole(Console):
    """A console that reads no markup, marks nothing by itself, and shows what a terminal would obey."""

    def __init__(self, *, soft_wrap: bool = True, file: IO[str] | None = None, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap, file=file, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as Rich does; the text of each piece is made printable, its colours stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Lets the error through, which Rich would turn into an end of the process with exit code 1."""
        raise
