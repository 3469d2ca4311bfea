# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read from its HLO text: products, memory traffic, large arrays.

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

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# These move nothing: names for what is there, or what the loop around them already counts.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
# Custom calls that give what is there another name.
_NAMES = {"ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound"}
FREE |= {"call", "after-all", "partition-id", "replica-id", "optimization-barrier", "iota"}
FREE |= {"send", "recv"}  # between slices: they count as collectives

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\([^)]*.*)?\) -> .*\{$|^(ENTRY )?%?([\w.\-]+) \{$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|called_computations|branch_computations|true_computation"
    r"|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """A shape as HLO writes it."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""  # "S(1)" in it: not in HBM, but in the memory beside the arithmetic

    @property
    def bytes(self) -> float:
        """Its size, padding left out."""
        return math.prod(self.shape) * BYTES[self.dtype]

    @property
    def hbm(self) -> float:
        """Its bytes if it lies in HBM."""
        return 0.0 if "S(" in self.layout else self.bytes

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
        """The size of its results."""
        return sum(array.bytes for array in self.results)

    @property
    def hbm(self) -> float:
        """The bytes of its results that lie in HBM."""
        return sum(array.hbm for array in self.results)

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
            for name in names.strip("{}").split(","):
                yield how, name.strip().lstrip("%")


class Module:
    """The computations of a compiled program, and how often each runs.

    `unknown_trips` is the number of turns of a loop whose length XLA does not know.
    """

    def __init__(self, text: str, unknown_trips: float = 1):
        self.computations, self.entry = _parse(text)
        self.unknown_trips = unknown_trips
        partitions = re.search(r"num_partitions=(\d+)", text)
        self.partitions = int(partitions[1]) if partitions else 1
        self.lines = {line.name: line for lines in self.computations.values() for line in lines}

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """How often each computation runs, those left out that a fusion or a reduction is made of.

        The text has callees before their callers, so that one pass from its end is enough.
        """
        times = dict.fromkeys(self.computations, 0.0)
        times[self.entry] = 1.0
        for name in reversed(self.computations):
            for line in self.computations[name]:
                if line.opcode == "fusion":
                    continue
                for how, called in line.called():
                    if how != "to_apply" or line.opcode == "call":
                        turns = self.turns(line) if line.opcode == "while" else 1.0
                        times[called] += times[name] * turns
        return times

    def turns(self, loop: Instruction) -> float:
        """How often a loop's body runs: what XLA writes beside it, or the constant that its
        counter, which starts at 0, is compared with."""
        if found := _TRIPS.search(loop.text):
            return float(found[1])
        condition = self.computations[dict(loop.called())["condition"]]
        last = condition[-1]
        for name in last.operands if "direction=LT" in last.text else ():
            if found := re.search(r"s32\[\]\S* constant\((\d+)\)", self.lines[name].text):
                return float(found[1])
        return float(self.unknown_trips)

    def running(self) -> Iterator[tuple[Instruction, float]]:
        """Every instruction that runs by itself (not inside of a fusion), and how often."""
        for name, times in self.times.items():
            if times:
                for line in self.computations[name]:
                    yield line, times

    def inside(self, line: Instruction) -> Iterator[Instruction]:
        """An instruction and, of a fusion or an asynchronous start, those that it is made of."""
        yield line
        for how, called in line.called():
            if how in ("calls", "called_computations"):
                for part in self.computations.get(called, ()):
                    yield from self.inside(part)

    def traffic(self) -> float:
        """Bytes read and written in HBM by a call of the program, on one chip.

        Every instruction reads its operands and writes its results, where they are not kept beside
        the arithmetic; a fusion that takes a slice of an operand reads the slice, one that writes a
        slice in place writes the slice. What collectives read and write is left out: see
        `jaxvl.plan.collectives`.
        """
        return sum(times * self.moved(line) for line, times in self.running())

    def moved(self, line: Instruction) -> float:
        """Bytes that one instruction reads and writes in HBM."""
        opcode = line.opcode
        if opcode in FREE or opcode.endswith("-done") or opcode.startswith(COLLECTIVES):
            return 0.0
        body = next((called for how, called in line.called() if how == "calls"), None)
        if opcode == "fusion" and body in self.computations:
            return self._fused(line, self.computations[body])
        if opcode == "copy-start":  # (to, from, ..)
            return line.results[0].hbm + line.results[1].hbm
        if opcode == "slice-start":  # ((whole), part, ..)
            whole, part = line.results[:2]
            return part.hbm + (part.bytes if whole.hbm else 0.0)
        if opcode == "custom-call" and line.target in _NAMES:
            return 0.0
        if opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * line.hbm
        if opcode in ("dynamic-update-slice", "scatter"):
            return 2.0 * sum(self._hbm(name) for name in line.operands[1:2])
        return line.hbm + sum(self._hbm(name) for name in line.operands)

    def _fused(self, line: Instruction, body: list[Instruction]) -> float:
        """Of a fusion: operands of which only slices are used count as the slices, and those of a
        collective that runs beside it do not count here."""
        if any(part.target.startswith("AsyncCollective") for part in body):
            return 0.0
        beside = {str(a) for part in body if part.opcode in COLLECTIVES for a in part.results}
        read = 0.0
        written = sum(array.hbm for array in line.results if str(array) not in beside)
        for part in body:
            if part.opcode == "parameter" and part.hbm and str(part.results[0]) not in beside:
                taken, kept = self._used(body, part, part.bytes)
                read += taken
                written -= kept
        return read + max(written, 0.0)

    def _used(
        self, body: list[Instruction], value: Instruction, whole: float
    ) -> tuple[float, float]:
        """Bytes of an array of size `whole` that a fusion's body reads through `value`, and those
        that stay where they are because a slice is written into it in place."""
        read = kept = 0.0
        uses = [use for use in body if value.name in use.operands]
        if not uses:  # it is what the body returns
            return whole, kept
        for use in uses:
            first = use.operands[0] == value.name
            if first and use.opcode in ("dynamic-slice", "slice", "gather"):
                read += use.bytes
            elif first and use.opcode == "dynamic-update-slice":
                kept += whole - self.lines[use.operands[1]].bytes
            elif use.opcode in ("fusion", "bitcast"):
                inner, name = body, use
                if use.opcode == "fusion":
                    inner = self.computations[dict(use.called())["calls"]]
                    number = f"parameter({use.operands.index(value.name)})"
                    name = next(one for one in inner if number in one.text)
                taken, stays = self._used(inner, name, whole)
                read, kept = read + taken, kept + stays
            else:
                return whole, kept
        return min(read, whole), kept

    def _hbm(self, name: str) -> float:
        return self.lines[name].hbm if name in self.lines else 0.0

    def flops(self) -> float:
        """Operations of matrix products on one chip; those of custom calls are not seen here."""
        return sum(times * self.products(line) for line, times in self.running())

    def products(self, line: Instruction) -> float:
        """Operations of the matrix products that one instruction is made of."""
        return sum(
            self._product(part)
            for part in self.inside(line)
            if part.opcode in ("dot", "convolution")
        )

    def _product(self, line: Instruction) -> float:
        """2 x results x how many products are summed for each."""
        kernel = self.lines[line.operands[1]].results[0].shape
        if line.opcode == "dot":
            contracted = named(r"rhs_contracting_dims=\{([\d,]*)\}", line.text)
            summed = math.prod(kernel[int(i)] for i in contracted.split(",") if i)
        else:
            # In "bf0_0io->bf0" the kernel's letter i is summed over, and so is a digit, a dimension
            # of a window, unless padding or dilation make it a batch of products in disguise.
            labels = named(r"dim_labels=\w+_(\w+)->", line.text)
            window = dict(re.findall(r"(size|pad|lhs_dilate)=([\w\-]+)", line.text))
            batched = window.get("pad") or window.get("lhs_dilate")
            summed = math.prod(
                size
                for size, letter in zip(kernel, labels, strict=True)
                if letter == "i" or (letter.isdigit() and not batched)
            )
        return 2.0 * sum(math.prod(array.shape) for array in line.results) * summed

    def kernels(self) -> dict[str, float]:
        """Custom calls by their target, and how often a step makes each."""
        found: dict[str, float] = {}
        for line, times in self.running():
            for part in self.inside(line):
                if part.opcode == "custom-call":
                    found[part.target] = found.get(part.target, 0.0) + times
        return found

    def arrays(self) -> list[tuple[Array, str]]:
        """Arrays that instructions outside of fusions make, with where they come from, the largest
        first; each shape once."""
        found: dict[str, tuple[Array, str]] = {}
        for line, _ in self.running():
            if line.opcode in FREE:
                continue
            for array in line.results:
                found.setdefault(str(array), (array, line.op_name))
        return sorted(found.values(), key=lambda pair: -pair[0].bytes)


def named(pattern: str | re.Pattern[str], text: str) -> str:
    """What an instruction says in the pattern's group; ValueError where it does not."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"an instruction without {pattern}: {text}")
    return found[1]


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Computations by name, and the name of the one that runs first."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if not line.startswith(" ") and line.endswith("{"):
            first = line.removeprefix("ENTRY ")
            head = re.match(r"%?([\w.\-]+)", first)
            if head and not line.startswith("HloModule"):
                current = computations.setdefault(head[1], [])
                entry = head[1] if line.startswith("ENTRY ") else entry
            continue
        found = _LINE.match(line)
        if found and current is not None:
            name, results, opcode, rest = found.groups()
            current.append(
                Instruction(name, opcode, _arrays(results), _operands(rest), line.strip())
            )
    return computations, entry


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(size) for size in shape.split(",") if size), layout)
        for dtype, shape, layout in _ARRAY.findall(text)
        if dtype in BYTES
    )


def _operands(rest: str) -> tuple[str, ...]:
    """Names in the parentheses that an instruction's operands stand in."""
    depth = 1
    for at, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return tuple(re.findall(r"%([\w.\-]+)", rest[:at]))
    return ()
