"""Performance cannot rot: what a step executes and holds for each real token, against committed bounds.

What makes it better than its bound by more than the margin fails too: the bound is then to be written anew, by
`python -m tests.train.step.test_compiled_bounds`.
"""

import json
from itertools import product
from pathlib import Path

import pytest

from oddsmill.train.planning.compiled import Program
from oddsmill.train.planning.figures import batch_shapes, compile_step
from tests.train.assembled import ROW_LENGTH, ROWS, assembled, hh_like_rows

BOUNDS = Path(__file__).with_suffix(".json")
MARGIN = 0.03
VARIANTS = {
    f"{scope}, {'recomputed' if remat else 'kept'}, {dtype}": (scope, remat, dtype)
    for scope, remat, dtype in product(("full", "response"), (True, False), ("float32", "bfloat16"))
}


def measured(variant):
    """A real token's share of a step on HH-like rows: FLOPs outside attention's blocks and in those that are visited,
    and temporary bytes.
    """
    scope, remat, dtype = VARIANTS[variant]
    rows = hh_like_rows()
    step = assembled(max_pairs=rows.max_pairs, nll_scope=scope, gradient_checkpointing=remat, compute_dtype=dtype)
    compiled = compile_step(step, batch_shapes(step, rows=ROWS, row_length=ROW_LENGTH))
    program, tokens = Program(compiled.as_text()), rows.fill * ROWS * ROW_LENGTH
    return {
        "flops": program.flops() / tokens,
        "flops_of_attention_blocks": program.dynamic_loop_flops() * rows.visits / tokens,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes / tokens,
    }


def check(name, value, bound):
    change = value / bound - 1
    assert change < MARGIN, f"{name} is {change:+.1%} above its bound, {bound:,.1f}"
    assert change > -MARGIN, f"{name} is {change:+.1%} better than its bound: write {BOUNDS.name} anew and commit it"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_takes_no_more_than_its_bound(variant):
    bounds = json.loads(BOUNDS.read_text())[variant]
    found = measured(variant)
    assert set(found) == set(bounds)
    for name, value in found.items():
        check(name, value, bounds[name])


def test_padding_takes_no_more_than_its_bound():
    check("padding", 1 - hh_like_rows().fill, json.loads(BOUNDS.read_text())["padding"])


def main():
    bounds = {variant: measured(variant) for variant in VARIANTS} | {"padding": 1 - hh_like_rows().fill}
    BOUNDS.write_text(json.dumps(bounds, indent=2) + "\n")


if __name__ == "__main__":
    main()
