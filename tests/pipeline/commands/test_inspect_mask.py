import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from oddsmill.pipeline.commands.inspect_mask import Block, mask_by_blocks, print_mask
from oddsmill.schemas.layout import RowArrays, derive
from oddsmill.schemas.record import Pair, make_row

PAIRS = [
    Pair(prompt=[1, 2, 3], chosen=[4, 5, 6], rejected=[7, 8], id=1),
    Pair(prompt=[1], chosen=[4, 6], rejected=[7], id=2),
]


@pytest.fixture
def arrays() -> RowArrays:
    return derive(make_row(PAIRS, row_length=13, pad_id=0, vocab_size=99))


def shown(arrays: RowArrays, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_mask("train row 0", arrays, Console(file=file, width=200))
    file.seek(0)
    return file.read().splitlines()


def test_a_row_is_divided_into_branches_of_pairs(arrays: RowArrays):
    assert mask_by_blocks(arrays).blocks == [
        Block(1, "prompt", 0, 2), Block(1, "chosen", 2, 5), Block(1, "rejected", 5, 7),
        Block(2, "chosen", 7, 9), Block(2, "rejected", 9, 10), Block(0, "padding", 10, 13),
    ]  # fmt: skip


def test_answers_see_their_prompt_and_themselves_and_nothing_else(arrays: RowArrays):
    lines = shown(arrays)
    assert [line.split()[-1] for line in lines[3:]] == ["◣·····", "█◣····", "█·◣···", "···◣··", "····◣·", "······"]
    assert [line.split()[-1] for line in shown(arrays, "ascii")[3:5]] == ["\\.....", "#\\...."]


def test_a_wrong_end_is_shown_where_it_lets_others_see(arrays: RowArrays):
    end = arrays.end.copy()
    end[2:5] = 7  # the chosen answer is seen by the rejected one
    found = mask_by_blocks(arrays._replace(end=end))
    assert found.wrong == [(2, 1)] and found.seen[2][1] == "all"
    lines = shown(arrays._replace(end=end))
    assert lines[5].split()[-1] == "█!◣···"
    assert lines[-1] == (
        "wrong: pair 1 rejected sees all of pair 1 chosen, which is not what their segments and branches say"
    )
    end[0] = 8  # and a token of the prompt by the next pair
    assert mask_by_blocks(arrays._replace(end=end)).wrong == [(2, 1), (3, 0)]


def test_a_wrong_segment_is_shown_too(arrays: RowArrays):
    segment = np.where(arrays.segment == 2, 1, arrays.segment)  # two pairs told as one
    found = mask_by_blocks(arrays._replace(segment=segment))
    assert (3, 0) in found.wrong and found.seen[3][0] == "none"


def test_programs_read_the_mask_of_one_row(run: Callable, write_rows: Callable, triples: Callable, command: Callable):
    folder: Path = run("out", write_rows("rows.jsonl", triples(30)), eval_share=0.0).folder
    code, out, err = command("inspect", folder, "--mask", "--row=1", "--json")
    (row,) = [json.loads(line) for line in out.splitlines()]
    assert (code, err, row["split"], row["row"], row["wrong"]) == (0, "", "train", 1, [])
    assert row["blocks"][0]["start"] == 0 and row["blocks"][-1]["stop"] == 128
    assert len(row["seen"]) == len(row["blocks"])
    code, out, _ = command("inspect", folder, "--mask", "--row=1")
    assert code == 0 and out.startswith("train row 1: ") and "!" not in "".join(out.splitlines()[3:])


def test_a_row_that_is_not_there_is_refused(run: Callable, write_rows: Callable, triples: Callable, command: Callable):
    folder: Path = run("out", write_rows("rows.jsonl", triples(9)), eval_share=0.0).folder
    code, _, err = command("inspect", folder, "--row=99")
    assert code == 2 and "--row=99: train has 7 rows, counted from 0" in err
    code, _, err = command("inspect", folder, "--row=0", "--num_rows=2")
    assert code == 2 and "--row shows one row; leave this out" in err


def test_one_row_is_shown_by_its_number(run: Callable, write_rows: Callable, triples: Callable, command: Callable):
    folder: Path = run("out", write_rows("rows.jsonl", triples(9)), eval_share=0.0, packing=False).folder
    out = command("inspect", folder, "--row=4", "--json")[1]
    assert [json.loads(line)["row"] for line in out.splitlines()] == [4]
