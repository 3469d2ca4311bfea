# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read from its HLO text: collectives, memory traffic, large arrays.

XLA's own cost analysis counts the body of a loop once. Here what stands in a body counts as often
as the loop runs: XLA writes the number beside a loop whose length is known (a scan), and the caller
gives it for one that ends by itself (decoding).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# These move nothing: names for what is there, or what the loop around them already counts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
_FREE |= {"call", "after-all", "partition-id", "replica-id", "optimization-barrier", "iota"}

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\([^)]*.*)?\) -> .*\{$|^(ENTRY )?%?([\w.\-]+) \{$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|called_computations|branch_computations|true_computation"
    r"|false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r"replica_groups=(\{\{[\d,{}]*\}\}|\{\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """A shape as HLO writes it."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def bytes(self) -> float:
        return math.prod(self.shape) * BYTES.get(self.dtype, 0)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str  # the line

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.results)

    @property
    def op_name(self) -> str:
        """Where in the program's source it comes from, by scopes."""
        found = _OP_NAME.search(self.text)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """Of a custom call: what it calls."""
        found = _TARGET.search(self.text)
        return found[1] if found else ""

    def called(self) -> Iterator[tuple[str, str]]:
        """(how, computation) of what it runs: ("body", "region_3.7")."""
        for how, names in _CALLED.findall(self.text):
            for name in names.split(", "):
                yield how, name.lstrip("%")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One place in the program where chips exchange data."""

    kind: str
    bytes: float  # of the whole array on one side: what a gather makes, what a reduction takes
    times: float  # how often a step of the program comes by
    group: tuple[int, ...]  # the chips of its first group, by their number in the mesh
    op_name: str

    @property
    def moved(self) -> float:
        """Bytes that a chip receives each time, in the ring algorithms."""
        n = max(len(self.group), 1)
        passes = {"all-reduce": 2.0 * (n - 1) / n, "collective-permute": 1.0}
        return self.bytes * passes.get(self.kind, (n - 1) / n)


class Program:
    """The computations of a compiled program's text, and how often each runs.

    `unknown_trips` is the number of turns of a loop whose length XLA does not know.
    """

    def __init__(self, text: str, unknown_trips: int = 1):
        self.computations, self.entry = _parse(text)
        self.unknown_trips = unknown_trips
        self.partitions = int(re.search(r"num_partitions=(\d+)", text)[1]) if (
            "num_partitions=" in text
        ) else 1
        self._shapes = {
            line.name: line for lines in self.computations.values() for line in lines
        }

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """How often each computation runs, bodies of fusions and reductions left out."""
        times: dict[str, float] = {self.entry: 1.0}
        for name in self._in_order():
            for line in self.computations[name]:
                for how, called in line.called():
                    if called not in self.computations or how in ("to_apply",) or (
                        line.opcode == "fusion"
                    ):
                        continue
                    turns = self._turns(line) if how in ("body", "condition") else 1.0
                    times[called] = times.get(called, 0.0) + times.get(name, 0.0) * turns
        return times
