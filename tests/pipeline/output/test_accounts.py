"""The account of each file: which drops of a file refuse a run, and which are said."""

from types import SimpleNamespace
from typing import Any

import pytest

from oddsmill.pipeline import SourceConfig
from oddsmill.pipeline.output.accounts import FileAccount, FileDrops, check_accounts, describe_accounts, make_accounts
from oddsmill.pipeline.output.seen import Seen
from oddsmill.schemas.errors import Refused


def resolved(files: int, max_drop_share: float = 0.5) -> Any:
    sources = [SourceConfig(path="x", format="triple")] * files
    return SimpleNamespace(sources=sources, output="out", config=SimpleNamespace(max_drop_share=max_drop_share))


def accounts(*files: tuple[int, dict[str, int]]) -> list[FileAccount]:
    return [FileAccount(f"{number}.jsonl", rows, 0, drops) for number, (rows, drops) in enumerate(files)]


REFUSED = [
    [(6, {}), (4, {"wrong_type": 4})],
    [(6, {}), (4, {"wrong_type": 1, "missing_field": 1, "bad_roles": 1, "tie": 1})],
    [(100_000, {}), (9, {"missing_field": 5})],
    [(100, {}), (2, {"unreadable": 2})],
    [(0, {}), (100, {}), (50, {"unsupported_content": 50})],
]
TAKEN = [
    [(6, {}), (4, {"wrong_type": 2})],
    [(6, {}), (4, {"prompt_too_long": 4})],
    [(6, {}), (4, {"duplicate": 4})],
    [(100_000, {}), (3, {"wrong_type": 3})],
    [(4, {"wrong_type": 4})],
    [(4, {"wrong_type": 4}), (4, {"wrong_type": 4}), (0, {})],
]


@pytest.mark.parametrize("files", REFUSED)
def test_a_file_that_was_read_as_what_it_is_not_is_refused_by_name(files: list[Any]):
    file = len(files) - 1
    with pytest.raises(Refused, match=rf"^{file}\.jsonl: \d+ of {files[file][0]} rows were dropped .*read as triple"):
        check_accounts(accounts(*files), resolved(len(files)))
    check_accounts(accounts(*files), resolved(len(files), max_drop_share=1.0))


@pytest.mark.parametrize("files", TAKEN)
def test_other_drops_and_a_few_rows_among_many_are_not_refused_for_their_file(files: list[Any]):
    check_accounts(accounts(*files), resolved(len(files)))


def test_accounts_are_in_the_order_of_the_input():
    seen = Seen(rows={1: 7, 0: 3}, extra_pairs={1: 2})
    assert make_accounts(["a", "b", "c"], seen, [FileDrops(1, {"tie": 4})]) == [
        ("a", 3, 0, {}),
        ("b", 7, 2, {"tie": 4}),
        ("c", 0, 0, {}),
    ]


def test_files_with_many_drops_are_named_the_worst_first():
    files = accounts((100, {"tie": 9}), (100, {"tie": 20, "duplicate": 1}), (100, {}), (3, {"wrong_type": 3}))
    assert describe_accounts(files) == [
        "1.jsonl: 21 of 100 rows were dropped (duplicate 1, tie 20)",
        "3.jsonl: 3 of 3 rows were dropped (wrong_type 3)",
    ]
    assert describe_accounts(accounts((3, {"tie": 3}))) == []
    assert describe_accounts(accounts(*[(3, {"tie": 2})] * 8))[-1] == "and of 3 more files"
