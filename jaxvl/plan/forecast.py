# SPDX-License-Identifier: Apache-2.0
"""How long a program may take, operation by operation.

Beside fusions and copies the TPU's compiler writes how many cycles it expects of each. Their sum
knows of layouts, of memory that waits and of small operations, of which a roofline knows nothing.
The compiler for CUDA writes none: there each operation has its own roofline, and they come one
after the other. What the compilers leave out is named, and estimated where a figure can be stated:
kernels of attention at the chip's peak, sorts by SORT_CYCLES, exchanges by their links. Copies that
run beside, the start of a kernel and the host have none. So a chip is still slower than this, and
nothing here was measured.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from jaxvl.plan.hlo import COLLECTIVES, FREE, Instruction, Module

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN = 10**11  # cycles: what the compiler writes where it does not know
_LARGE = 2**16  # bytes: what is smaller and has no figure is not worth a word
# The first that an instruction's scopes name, forward or backward.
_PARTS = tuple(
    (part, re.compile(rf"[/(]({scopes})[/)]"))
    for part, scopes in (
        ("tower", "tower"),
        ("sampling", "sampling"),
        ("head", "head"),
        ("decoder", "decoder|attention|mlp|embedding"),
    )
)


# Cycles of a pass of a bitonic network over 1,024 numbers with their places: what a v6e's 5 ms for
# 32 rows of 128k come to, all passes and what comes behind the sort included
# (https://github.com/vllm-project/vllm/pull/15891).
SORT_CYCLES = 14


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of a call on one chip."""

    parts: dict[str, float]  # by part of the model, operation by operation
    kernels: float  # of attention, at the chip's peak
    missing: dict[str, float]  # by kind, how often a call comes by something without a figure
    # On top of the sum, estimated by figures of other origin:
    sorts: float = 0.0  # by SORT_CYCLES
    exchanges: float = 0.0  # by their links, of those that nothing runs beside
    beside: float = 0.0  # and of those that operations run beside, which hide them if they last

    @property
    def seconds(self) -> float:
        """Of what has a figure: operations, and kernels at the chip's peak."""
        return sum(self.parts.values()) + self.kernels


def forecast(
    module: Module, clock: float, kernels: float, exchanges: float = 0.0, beside: float = 0.0
) -> Forecast | None:
    """Of a compiled program; None where its compiler writes no cycles. `kernels`, `exchanges` and
    `beside`: their seconds."""
    parts: dict[str, float] = collections.defaultdict(float)
    missing: dict[str, float] = collections.defaultdict(float)
    sorts = 0.0
    for line, times in module.running():
        if line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        found = _CYCLES.search(line.text)
        if found and int(found[1]) < _UNKNOWN:
            parts[part_of(line.op_name)] += times * int(found[1]) / clock
        elif kind := _kind(line):
            missing[kind] += times
            if kind == "sort":
                sorts += times * sort_cycles(module, line) / clock
    if not parts:
        return None
    return Forecast(_most_first(parts), kernels, _most_first(missing), sorts, exchanges, beside)


def one_by_one(
    module: Module,
    peak: float,
    bandwidth: float,
    kernels: float,
    exchanges: float = 0.0,
    beside: float = 0.0,
) -> Forecast:
    """Of a compiled program whose compiler writes no cycles: each operation takes as long as its
    products at `peak` FLOP/s or its bytes at `bandwidth`, whichever is longer."""
    parts: dict[str, float] = collections.defaultdict(float)
    missing: dict[str, float] = collections.defaultdict(float)
    for line, times in module.running():
        kind = line.opcode.removesuffix("-start")
        if kind in FREE or kind.endswith("-done"):
            continue
        if kind in (*COLLECTIVES, "sort", "custom-call"):
            missing[line.target or kind] += times
            continue
        seconds = max(module.products(line) / peak, module.moved(line) / bandwidth)
        parts[part_of(line.op_name)] += times * seconds
        missing["start of a kernel"] += times
    return Forecast(_most_first(parts), kernels, _most_first(missing), 0.0, exchanges, beside)


def sort_cycles(module: Module, line: Instruction) -> float:
    """Cycles that a sort takes on a TPU, by SORT_CYCLES: a network of k (k + 1) / 2 passes for rows
    of 2^k numbers."""
    operand = module.lines[line.operands[0]].results if line.operands else ()
    shape = (operand or line.results)[0].shape
    axis = re.search(r"dimensions=\{(\d+)\}", line.text)
    length = shape[int(axis[1])] if axis and shape else max(shape, default=1)
    levels = math.ceil(math.log2(max(length, 2)))
    return SORT_CYCLES * math.prod(shape) / 1024 * levels * (levels + 1) / 2


def _most_first(found: dict[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def part_of(op_name: str) -> str:
    """The part of the model that an instruction belongs to, by its scopes."""
    return next((part for part, scopes in _PARTS if scopes.search(op_name)), "rest")


def _kind(line: Instruction) -> str:
    """Of an instruction without cycles; "" where it is not worth a word."""
    opcode = line.opcode.removesuffix("-start")
    if line.target == "tpu_custom_call":
        return "kernel"
    return opcode if opcode in (*COLLECTIVES, "sort") or line.bytes >= _LARGE else ""
