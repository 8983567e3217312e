"""`inspect --mask`: which tokens of a row see which, by blocks; a block is one branch of one pair."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from rich.console import Console

from oddsmill.schemas.layout import SIDE_OF_BRANCH, RowArrays, attention_mask, mask_in_words

BRANCHES = ("padding", "prompt", "chosen", "rejected")
# What the queries of one block see of another: nothing; all of it; in their own block, all up to themselves; else some.
_SIGNS = {"none": "·", "all": "█", "causal": "◣", "some": "▒"}
_ASCII_SIGNS = {"none": ".", "all": "#", "causal": "\\", "some": "?"}


class Block(NamedTuple):
    """Positions `start` to `stop` (excluded) of a row, of one branch of one pair; pairs count from 1, padding is 0."""

    pair: int
    branch: str
    start: int
    stop: int


class BlockMask(NamedTuple):
    """The mask of a row by blocks.

    Attributes:
      blocks: in the order of the row.
      seen: [query block][key block] what the queries see of the keys: none, all, causal or some.
      wrong: (query block, key block) where the mask is not the one that segments and branches ask for.
    """

    blocks: list[Block]
    seen: list[list[str]]
    wrong: list[tuple[int, int]]


def mask_by_blocks(arrays: RowArrays) -> BlockMask:
    """Summarizes the mask of one row.

    Args:
      arrays: [L] each.
    """
    mask = attention_mask(arrays)
    differs = mask != mask_in_words(arrays)
    length = len(arrays.segment)
    sides = SIDE_OF_BRANCH[arrays.branch]  # an unscored token sees what its answer's other tokens see
    changes = (np.diff(arrays.segment) != 0) | (np.diff(sides) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), length]
    blocks = [
        Block(int(arrays.segment[start]), BRANCHES[sides[start]], start, stop) for start, stop in pairwise(bounds)
    ]
    spans = [slice(block.start, block.stop) for block in blocks]
    seen = [[_seen(mask[queries, keys], queries == keys) for keys in spans] for queries in spans]
    wrong = [(q, k) for q, queries in enumerate(spans) for k, keys in enumerate(spans) if differs[queries, keys].any()]
    return BlockMask(blocks, seen, wrong)


def print_mask(title: str, arrays: RowArrays, console: Console) -> None:
    """Prints the mask of one row: a line for each block of queries, a column for each block of keys."""
    found = mask_by_blocks(arrays)
    signs = _ASCII_SIGNS if console.options.ascii_only else _SIGNS
    console.print(f"{title}: which block of tokens (line) sees which (column)", style="bold")
    console.print("  ".join(f"{sign} {what}" for what, sign in signs.items()) + "  ! wrong", style="dim")
    columns = "".join(block.branch[0] for block in found.blocks)
    console.print(f"{'pair':>5} {'branch':<8} {'positions':>11}  {columns}", style="dim")
    wrong = set(found.wrong)
    for number, (block, seen) in enumerate(zip(found.blocks, found.seen, strict=True)):
        cells = "".join("!" if (number, key) in wrong else signs[what] for key, what in enumerate(seen))
        positions = f"{block.start}-{block.stop - 1}"
        console.print(f"{block.pair or '':>5} {block.branch:<8} {positions:>11}  {cells}")
    for query, key in found.wrong:
        console.print(
            f"wrong: {_name(found.blocks[query])} sees {found.seen[query][key]} of {_name(found.blocks[key])}, "
            "which is not what their segments and branches say",
            style="bold red",
        )


def mask_as_json(arrays: RowArrays) -> dict[str, object]:
    """Returns the mask of one row for programs."""
    found = mask_by_blocks(arrays)
    return {"blocks": [block._asdict() for block in found.blocks], "seen": found.seen, "wrong": found.wrong}


def _seen(mask: np.ndarray, is_diagonal: bool) -> str:
    if not mask.any():
        return "none"
    if is_diagonal and np.array_equal(mask, np.tri(len(mask), dtype=bool)):
        return "causal"
    return "all" if mask.all() else "some"


def _name(block: Block) -> str:
    return f"pair {block.pair} {block.branch}" if block.pair else "padding"
