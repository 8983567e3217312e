"""Is every mechanism of attention right on this device, and how fast is it?

    python -m bench.attention [--length=2048] [--rows=4] [--heads=32] [--key_heads=8] [--head_dim=64] [--dtype=bfloat16]

First the outputs and gradients of each mechanism on packed rows, beside the dense form in float64 from the same
inputs; an error is right where it is at most twice that of the dense form in the same dtype. Then, in turn, forward and
backward passes, and their ratio to `xla`. On a CPU the kernels' programs are interpreted: checked, not timed. Prints
Markdown; exits with 1 where a mechanism is wrong.
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import Pair, make_row
from oddsmill.train.attention.attention import attention
from oddsmill.train.attention.choice import MECHANISMS
from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism, Workload
from oddsmill.train.attention.vanilla import VANILLA
from tests.datasets import packed


def packed_rows(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and ends, [rows, length] int32, of pairs with the lengths of UltraFeedback's (medians 99, 318, 270)."""
    rng, pairs = np.random.default_rng(0), []
    for number in range(rows * length // 500 + 1):
        sides = np.exp(rng.normal(np.log([99, 318, 270]), [1.1, 0.7, 0.7])).astype(int)
        prompt, chosen, rejected = (np.ones(size, int).tolist() for size in np.clip(sides, 1, length // 4))
        pairs.append(Pair(prompt=prompt, chosen=chosen, rejected=rejected, id=number))
    arrays = [derive(make_row(row, row_length=length, pad_id=0, vocab_size=2)) for row in packed(pairs, length)[:rows]]
    return np.stack([array.position for array in arrays]), np.stack([array.end for array in arrays])


def both_passes(mechanism: Mechanism, query: Any, key: Any, value: Any, d_output: Any, position: Any, end: Any) -> Any:
    """Output and the gradients of its product with `d_output`."""

    def output(query: Any, key: Any, value: Any) -> Any:
        scale = query.shape[-1] ** -0.5
        return attention(query, key, value, position, Keys(position, end), scale=scale, mechanism=mechanism)

    found, backward = jax.vjp(output, query, key, value)
    return found, *backward(d_output.astype(found.dtype))


def error(found: Any, reference: Any, real: np.ndarray) -> float:
    """The largest difference of outputs and gradients at real positions, each over the root mean square of its like."""
    worst = 0.0
    for ours, exact in zip(found, reference, strict=True):
        ours, exact = np.asarray(ours, np.float64)[real], np.asarray(exact)[real]
        worst = max(worst, float(np.abs(ours - exact).max() / np.sqrt(np.mean(exact**2))))
    return worst


def inputs(rng: np.random.Generator, rows: int, length: int, heads: int, key_heads: int, dim: int, dtype: Any) -> Any:
    position, end = packed_rows(rows, length)
    shapes = [(rows, length, count, dim) for count in (heads, key_heads, key_heads, heads)]
    query, key, value, d_output = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return query, key, value, d_output * (end > 0)[..., None, None].astype(dtype), position, end


def seconds(run: Any, arguments: Any, repeats: int) -> float:
    """The median of single runs, after one that compiles."""
    jax.block_until_ready(run(*arguments))
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"length": 2048, "rows": 4, "heads": 32, "key_heads": 8, "head_dim": 64, "repeats": 10}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    chosen = parser.parse_args()
    device, dtype = jax.devices()[0], jnp.dtype(chosen.dtype)
    workload = Workload(
        platform=device.platform, dtype=chosen.dtype, row_lengths=(chosen.length,), head_dim=chosen.head_dim
    )

    def here(mechanism: Mechanism) -> tuple[Mechanism, bool]:
        """The mechanism as it runs on this device, and whether it is interpreted: a kernel is on a CPU."""
        if device.platform != "cpu" or mechanism.platform is None:
            return mechanism, False
        return replace(mechanism, platform=None, compute=partial(mechanism.compute, interpret=True)), True

    rng = np.random.default_rng(0)
    # One row and one group of heads: the dense form in float64 holds all scores, on the host.
    groups = chosen.heads // chosen.key_heads
    sample = inputs(rng, 1, chosen.length, groups, 1, chosen.head_dim, dtype)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        in_float64 = [np.asarray(array, np.float64) for array in sample[:4]]
        exact = jax.jit(partial(both_passes, VANILLA))(*in_float64, *map(np.asarray, sample[4:]))
        exact = jax.tree.map(np.asarray, exact)
    real = sample[-1] > 0
    whole = inputs(rng, chosen.rows, chosen.length, chosen.heads, chosen.key_heads, chosen.head_dim, dtype)
    print(
        f"{device.device_kind}, jax {jax.__version__}; {chosen.rows} rows of {chosen.length}, {chosen.heads} heads on "
        f"{chosen.key_heads}, {chosen.head_dim} dimensions, {chosen.dtype}\n"
    )
    print("| mechanism | largest error | dense form's | right | both passes, ms | times xla's speed |")
    print("|---|---|---|---|---|---|")
    limit = error(jax.jit(partial(both_passes, VANILLA))(*sample), exact, real)
    right, xla = True, None
    for name in ["xla", *(name for name in MECHANISMS if name != "xla")]:
        mechanism, is_interpreted = here(MECHANISMS[name])
        problem = mechanism.obstacle(workload)
        if problem:
            print(f"| {name} | not here: {problem} | | | | |")
            continue
        run = jax.jit(partial(both_passes, mechanism))
        found = error(run(*sample), exact, real)
        # Cast inputs make all forms about as wrong; float32 itself is exact to a few units in its last place.
        is_right = found <= 2 * limit + 1e-5
        right &= is_right
        row = f"| {name} | {found:.2e} | {limit:.2e} | {'yes' if is_right else '**no**'} |"
        if is_interpreted:
            print(f"{row} interpreted | |", flush=True)
            continue
        try:
            taken = seconds(run, whole, chosen.repeats)
        except jax.errors.JaxRuntimeError as failure:  # the dense form at such lengths
            if "RESOURCE_EXHAUSTED" not in str(failure):
                raise
            print(f"{row} out of memory | |", flush=True)
            continue
        xla = xla or taken
        print(f"{row} {taken * 1e3:.2f} | {xla / taken:.2f} |", flush=True)
    sys.exit(not right)


if __name__ == "__main__":
    main()
