"""What is read off a compiled program: its arithmetic, what its collectives move, what goes through main memory.

All from the text of the optimized program, which is what one device runs. XLA's own count has a loop's body once; here
it counts as often as the loop turns. A loop whose turns depend on the data (the blocks of an attention) has no such
number, and a Pallas kernel is one instruction: what is inside both is not counted, and said to be missing.
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "c64": 64, "c128": 128}
# Instructions that move nothing themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "copy-done", "slice-done", "iota", "optimization-barrier",
}  # fmt: skip


class Array(NamedTuple):
    """An array of the program; `fast`: it lies in the fast memory beside the cores (a TPU's VMEM)."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype) or int(re.sub(r"\D.*", "", self.dtype.lstrip("sufe")) or 0)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    name: str
    opcode: str
    results: list[Array]
    operands: list[str]
    text: str

    def called(self, attribute: str) -> str | None:
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.text)
        return found.group(1) if found else None


class Visit(NamedTuple):
    """An instruction where it is run.

    Attributes:
      times: a step.
      computation: where it stands, and `caller` the one that is no fusion.
      is_open: inside a loop whose turns depend on the data; `times` has one turn of it.
    """

    instruction: Instruction
    times: int
    computation: str
    caller: str
    is_open: bool


class Program:
    """A compiled program, read from `jax.stages.Compiled.as_text()`."""

    def __init__(self, text: str):
        self._bodies: dict[str, dict[str, Instruction]] = {}
        entry = name = ""
        for line in text.splitlines():
            opened = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
            if opened:
                name = opened.group(2)
                entry = name if opened.group(1) else entry
                self._bodies[name] = {}
            instruction = _parse(line) if name else None
            if instruction:
                self._bodies[name][instruction.name] = instruction
        self._visits = list(self._walk(entry, 1, entry, False))

    def flops(self) -> float:
        """Floating point operations of the matrix products of one device and step; see `hides_products`."""
        return self._flops_of(visit for visit in self._visits if not visit.is_open)

    def open_flops(self) -> float:
        """The same of loops whose turns depend on the data, of one turn each."""
        return self._flops_of(visit for visit in self._visits if visit.is_open)

    @property
    def hides_products(self) -> bool:
        """Some are in loops whose turns depend on the data, or in kernels: `flops` lacks them."""
        return any((visit.is_open and _is_product(visit)) or _is_kernel(visit) for visit in self._visits)

    def moved(self) -> dict[str, int]:
        """Bytes of a device that each kind of collective brings together a step: its result, or of a reduce-scatter
        its operand. One that is spread over several instructions, to run beside them, counts once.
        """
        totals = dict.fromkeys(COLLECTIVES, 0)
        seen = set()
        for visit in self._visits:
            kind = visit.instruction.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", visit.instruction.text)
            key = (channel.group(1) if channel else visit.instruction.name, visit.caller, visit.times)
            if kind in totals and key not in seen:
                seen.add(key)
                results = sum(array.bytes for array in visit.instruction.results)
                operands = sum(array.bytes for array in self._operands(visit))
                is_started = visit.instruction.opcode.endswith("-start")  # its results hold the operands too
                totals[kind] += visit.times * max(results - operands if is_started else results, operands)
        return totals

    def main_memory_bytes(self) -> int:
        """Read and written a step by one device: operands and results of all instructions that are not in a fusion.

        Of an operand of which a fusion takes slices, these; of arrays that are updated in place, the update. What is
        in a loop whose turns depend on the data counts once.
        """
        return sum(visit.times * self._traffic(visit) for visit in self._visits if visit.computation == visit.caller)

    def _walk(self, name: str, times: int, caller: str, is_open: bool) -> Iterator[Visit]:
        for instruction in self._bodies.get(name, {}).values():
            yield Visit(instruction, times, name, caller, is_open)
            if instruction.opcode == "while":
                turns, body = self._turns(instruction), instruction.called("body")
                assert body is not None
                yield from self._walk(body, times * (turns or 1), body, is_open or turns is None)
            elif instruction.opcode == "fusion":
                fused = instruction.called("calls")
                yield from self._walk(fused or "", times, caller, is_open)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                names = re.findall(
                    r"(?:to_apply|true_computation|false_computation|calls)=%?([\w.-]+)", instruction.text
                )
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
                names += re.findall(r"%?([\w.-]+)", branches.group(1)) if branches else []
                runs = [list(self._walk(called, times, called, is_open)) for called in names]
                # Of several branches one is run: here the one with the most arithmetic.
                yield from max(runs, key=self._flops_of) if instruction.opcode == "conditional" else chain(*runs)

    def _flops_of(self, visits: Iterable[Visit]) -> float:
        return sum(visit.times * self._product_flops(visit) for visit in visits if _is_product(visit))

    def _turns(self, loop: Instruction) -> int | None:
        """How often a loop turns; None where the data say. JAX's loops count from 0 in steps of 1."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known.group(1))
        condition = self._bodies.get(loop.called("condition") or "", {})
        for instruction in condition.values():
            if instruction.opcode == "compare" and "direction=LT" in instruction.text:
                bound = condition.get(instruction.operands[1])
                value = re.search(r"constant\((\d+)\)", bound.text) if bound else None
                return int(value.group(1)) if value else None
        return None

    def _operands(self, visit: Visit) -> list[Array]:
        body = self._bodies[visit.computation]
        return [array for name in visit.instruction.operands if name in body for array in body[name].results]

    def _product_flops(self, visit: Visit) -> float:
        instruction = visit.instruction
        first, second = self._operands(visit)[:2]
        if instruction.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
            dims = [int(dim) for dim in contracted.group(1).split(",") if dim] if contracted else []
            return 2.0 * math.prod(instruction.results[0].dims) * math.prod(first.dims[dim] for dim in dims)
        return _convolution_flops(instruction, first, second)

    def _traffic(self, visit: Visit) -> int:
        instruction = visit.instruction
        if instruction.opcode in _FREE:
            return 0
        results = sum(array.bytes for array in instruction.results if not array.fast)
        if instruction.opcode in ("copy-start", "slice-start"):
            # Its results are both ends; of a slice the whole of what it is cut from, so take the cut twice.
            both = [array for array in instruction.results if array.dims]
            size = min((array.bytes for array in both), default=0)
            return size * sum(not array.fast for array in both[:2])
        operands = [array for array in self._operands(visit) if not array.fast]
        if instruction.opcode == "dynamic-update-slice":
            return 2 * self._operands(visit)[1].bytes
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * results
        if instruction.opcode != "fusion":
            return results + sum(array.bytes for array in operands)
        return self._fusion_traffic(visit, results)

    def _fusion_traffic(self, visit: Visit, results: int) -> int:
        fused = self._bodies.get(visit.instruction.called("calls") or "", {})
        updates = [inner for inner in fused.values() if inner.opcode == "dynamic-update-slice"]
        in_place = {inner.results[0].dims: inner for inner in updates}
        total = 0
        for array in visit.instruction.results:
            inner = in_place.get(array.dims)
            written = fused[inner.operands[1]].results[0] if inner and inner.operands[1] in fused else array
            total += 0 if array.fast else min(written.bytes, array.bytes)
        parameters = {inner.text.split("parameter(")[1].split(")")[0]: inner for inner in fused.values() if
                      inner.opcode == "parameter"}  # fmt: skip
        for index, array in enumerate(self._operands(visit)):
            parameter = parameters.get(str(index))
            users = [inner for inner in fused.values() if parameter and parameter.name in inner.operands]
            slices = [inner for inner in users if inner.opcode in ("dynamic-slice", "slice", "gather")]
            if array.fast or (users and all(user in updates and user.results[0].dims == array.dims for user in users)):
                continue
            whole = len(slices) < len(users) or not users
            total += array.bytes if whole else min(array.bytes, sum(user.results[0].bytes for user in slices))
        return total


def _parse(line: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$", line)
    if not found:
        return None
    name, shapes, opcode, rest = found.groups()
    results = [
        Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim), "S(1)" in layout)
        for dtype, dims, layout in re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shapes)
    ]
    operands = re.findall(r"%([\w.-]+)", rest.split(")")[0])
    return Instruction(name, opcode, results, operands, line)


def _is_product(visit: Visit) -> bool:
    return visit.instruction.opcode in ("dot", "convolution")


def _is_kernel(visit: Visit) -> bool:
    return 'custom_call_target="tpu_custom_call"' in visit.instruction.text


def _convolution_flops(instruction: Instruction, inputs: Array, kernel: Array) -> float:
    """A TPU's products are convolutions, batch dimensions among the spatial ones: only places that meet count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels is not None
    of_input, of_kernel, of_output = labels.groups()
    output = instruction.results[0]
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", (re.search(r"window=\{([^}]*)\}", instruction.text) or [""])[0]))
    spatial = sum(label.isdigit() for label in of_output)

    def numbers(name: str, default: str) -> list[str]:
        return window[name].split("x") if name in window else [default] * spatial

    flops = 2.0 * output.dims[of_output.index("b")] * output.dims[of_output.index("f")]
    flops *= kernel.dims[of_kernel.index("i")]
    fields = zip(*(numbers(*pair) for pair in (("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"),
                                               ("rhs_dilate", "1"))), strict=True)  # fmt: skip
    for dim, (stride, pad, spread, kernel_spread) in enumerate(fields):
        out = np.arange(output.dims[of_output.index(str(dim))])[:, None] * int(stride)
        at = out + np.arange(kernel.dims[of_kernel.index(str(dim))]) * int(kernel_spread) - int(pad.split("_")[0])
        size = (inputs.dims[of_input.index(str(dim))] - 1) * int(spread) + 1
        flops *= int(((at >= 0) & (at < size) & (at % int(spread) == 0)).sum())
    return flops
