# SPDX-License-Identifier: Apache-2.0
"""How long a program may take, by the TPU compiler's own figures.

Beside fusions and copies it writes how many cycles it expects of each. Their sum knows of layouts,
of memory that waits and of small operations, of which a roofline knows nothing. What has no figure
(kernels, sorts, exchanges, copies that run beside) is named; kernels of attention are taken to
reach the chip's peak. So a chip is still slower than this, and nothing here was measured.
"""

from __future__ import annotations

import collections
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of a call on one chip."""

    parts: dict[str, float]  # by part of the model, by the compiler's cycles
    kernels: float  # of attention, at the chip's peak
    missing: dict[str, float]  # by kind, how often a call comes by something without a figure

    @property
    def seconds(self) -> float:
        return sum(self.parts.values()) + self.kernels


def forecast(module: Module, clock: float, kernels: float) -> Forecast | None:
    """Of a compiled program; None where its compiler writes no cycles. `kernels`: their seconds."""
    parts: dict[str, float] = collections.defaultdict(float)
    missing: dict[str, float] = collections.defaultdict(float)
    for line, times in module.running():
        if line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        found = _CYCLES.search(line.text)
        if found and int(found[1]) < _UNKNOWN:
            parts[_part(line.op_name)] += times * int(found[1]) / clock
        elif kind := _kind(line):
            missing[kind] += times
    if not parts:
        return None
    return Forecast(_most_first(parts), kernels, _most_first(missing))


def _most_first(found: dict[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _part(op_name: str) -> str:
    return next((part for part, scopes in _PARTS if scopes.search(op_name)), "rest")


def _kind(line: Instruction) -> str:
    """Of an instruction without cycles; "" where it is not worth a word."""
    opcode = line.opcode.removesuffix("-start")
    if line.target == "tpu_custom_call":
        return "kernel"
    return opcode if opcode in (*COLLECTIVES, "sort") or line.bytes >= _LARGE else ""
