"""FLOPs and collectives of a compiled program, counted in the text of its optimized HLO, which is what one device runs.

XLA's own count has a loop's body once; here it counts once an iteration. A loop whose number of iterations depends on
the data (the blocks of an attention) has no such number, and a Pallas kernel is one opaque instruction: the products
inside both are not counted, and `Program.hides_products` says that some are missing.
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "c64": 64, "c128": 128}


class Array(NamedTuple):
    """An array of the program."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype) or int(re.sub(r"\D.*", "", self.dtype.lstrip("sufe")) or 0)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    """An instruction; `text` is its whole line."""

    name: str
    opcode: str
    results: list[Array]
    operands: list[str]
    text: str

    def called(self, attribute: str) -> str:
        """Returns the name of the computation in an attribute such as `body`; empty where there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.text)
        return found.group(1) if found else ""


class Visit(NamedTuple):
    """An instruction at a place where the program runs it.

    Attributes:
      times: how often it runs a step.
      computation: the computation that holds it; `caller`: the innermost one around it that is no fusion.
      in_dynamic_loop: True inside a loop whose number of iterations depends on the data; `times` counts one of them.
    """

    instruction: Instruction
    times: int
    computation: str
    caller: str
    in_dynamic_loop: bool


class Program:
    """A compiled program, read from `jax.stages.Compiled.as_text()`."""

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        entry = name = ""
        for line in text.splitlines():
            opened = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
            if opened:
                name = opened.group(2)
                entry = name if opened.group(1) else entry
                self._computations[name] = {}
            instruction = _parse(line) if name else None
            if instruction:
                self._computations[name][instruction.name] = instruction
        self._visits = list(self._walk(entry, 1, entry, False))

    def flops(self) -> float:
        """Returns the floating point operations of one device's matrix products a step; see `hides_products`."""
        return self._flops_of(visit for visit in self._visits if not visit.in_dynamic_loop)

    def dynamic_loop_flops(self) -> float:
        """Returns those of the loops whose number of iterations depends on the data, for one iteration of each."""
        return self._flops_of(visit for visit in self._visits if visit.in_dynamic_loop)

    @property
    def hides_products(self) -> bool:
        """True if some products are in dynamic loops or kernels, which `flops` leaves out."""
        return any((visit.in_dynamic_loop and _is_product(visit)) or _is_kernel(visit) for visit in self._visits)

    def moved(self) -> dict[str, int]:
        """Returns the bytes a step that each kind of collective brings to a device: its result, or the operand of a
        reduce-scatter. A collective that is split into several instructions, to run beside others, counts once.
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

    def _walk(self, name: str, times: int, caller: str, in_dynamic_loop: bool) -> Iterator[Visit]:
        for instruction in self._computations.get(name, {}).values():
            yield Visit(instruction, times, name, caller, in_dynamic_loop)
            if instruction.opcode == "while":
                iterations, body = self._iterations(instruction), instruction.called("body")
                yield from self._walk(body, times * (iterations or 1), body, in_dynamic_loop or iterations is None)
            elif instruction.opcode == "fusion":
                yield from self._walk(instruction.called("calls"), times, caller, in_dynamic_loop)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                names = re.findall(
                    r"(?:to_apply|true_computation|false_computation|calls)=%?([\w.-]+)", instruction.text
                )
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
                names += re.findall(r"%?([\w.-]+)", branches.group(1)) if branches else []
                runs = [list(self._walk(called, times, called, in_dynamic_loop)) for called in names]
                # One of several branches runs: count the one with the most arithmetic.
                yield from max(runs, key=self._flops_of) if instruction.opcode == "conditional" else chain(*runs)

    def _flops_of(self, visits: Iterable[Visit]) -> float:
        return sum(visit.times * self._product_flops(visit) for visit in visits if _is_product(visit))

    def _iterations(self, loop: Instruction) -> int | None:
        """Returns a loop's number of iterations; None if it depends on the data. JAX's loops count from 0 by 1."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known.group(1))
        condition = self._computations.get(loop.called("condition"), {})
        for instruction in condition.values():
            if instruction.opcode == "compare" and "direction=LT" in instruction.text:
                bound = condition.get(instruction.operands[1])
                value = re.search(r"constant\((\d+)\)", bound.text) if bound else None
                return int(value.group(1)) if value else None
        return None

    def _operands(self, visit: Visit) -> list[Array]:
        computation = self._computations[visit.computation]
        return [
            array for name in visit.instruction.operands if name in computation for array in computation[name].results
        ]

    def _product_flops(self, visit: Visit) -> float:
        instruction = visit.instruction
        first, second = self._operands(visit)[:2]
        if instruction.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
            dims = [int(dim) for dim in contracted.group(1).split(",") if dim] if contracted else []
            return 2.0 * math.prod(instruction.results[0].dims) * math.prod(first.dims[dim] for dim in dims)
        return _convolution_flops(instruction, first, second)


def _parse(line: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$", line)
    if not found:
        return None
    name, shapes, opcode, rest = found.groups()
    results = [
        Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim))
        for dtype, dims in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shapes)
    ]
    operands = re.findall(r"%([\w.-]+)", rest.split(")")[0])
    return Instruction(name, opcode, results, operands, line)


def _is_product(visit: Visit) -> bool:
    return visit.instruction.opcode in ("dot", "convolution")


def _is_kernel(visit: Visit) -> bool:
    return 'custom_call_target="tpu_custom_call"' in visit.instruction.text


def _convolution_flops(instruction: Instruction, inputs: Array, kernel: Array) -> float:
    """Returns the FLOPs of a convolution, at the positions where kernel and input meet.

    XLA writes a TPU's matrix products as convolutions, with batch dimensions among the spatial ones.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels is not None
    input_labels, kernel_labels, output_labels = labels.groups()
    output = instruction.results[0]
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", (re.search(r"window=\{([^}]*)\}", instruction.text) or [""])[0]))
    num_spatial = sum(label.isdigit() for label in output_labels)

    def numbers(name: str, default: str) -> list[str]:
        return window[name].split("x") if name in window else [default] * num_spatial

    flops = 2.0 * output.dims[output_labels.index("b")] * output.dims[output_labels.index("f")]
    flops *= kernel.dims[kernel_labels.index("i")]
    settings = zip(
        numbers("stride", "1"),
        numbers("pad", "0_0"),
        numbers("lhs_dilate", "1"),
        numbers("rhs_dilate", "1"),
        strict=True,
    )
    for dim, (stride, pad, input_dilation, kernel_dilation) in enumerate(settings):
        start = np.arange(output.dims[output_labels.index(str(dim))])[:, None] * int(stride)
        offset = np.arange(kernel.dims[kernel_labels.index(str(dim))]) * int(kernel_dilation)
        position = start + offset - int(pad.split("_")[0])
        size = (inputs.dims[input_labels.index(str(dim))] - 1) * int(input_dilation) + 1
        flops *= int(((position >= 0) & (position < size) & (position % int(input_dilation) == 0)).sum())
    return flops
