from collections.abc import Iterator

import pytest

from oddsmill.schemas.console import log


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    """What one test shows, the next does not."""
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)
