# SPDX-License-Identifier: Apache-2.0
"""What chips exchange in a compiled program, read from its HLO: kinds, sizes, how often, with whom.

Within a slice that is XLA's collectives. What slices of a multi-slice run exchange over the data
centre's network the TPU compiler writes as a pair of a send and a receive by each host's runtime.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvl.plan.hlo import COLLECTIVES, Instruction, Module, named

_CHANNEL = re.compile(r"channel_id=(\d+)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
# Four ways to write groups: pairs, lists, an iota that is reshaped, and axes of a mesh, which may
# have its devices in another order.
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXES = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))? ?\{([^}]*)\}"
)
# Between slices: what is done, and "{1,2}x{0:7}", the slices and in each the chips.
_ACROSS = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}x')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One place in the program where chips exchange data."""

    kind: str
    bytes: float  # of the whole array on one side: what a gather makes, what a reduction takes
    times: float  # how often a step of the program comes by
    groups: tuple[tuple[int, ...], ...]  # of chips by their number in the mesh; or of slices
    op_name: str
    across: bool = False  # between slices, over the data centre's network
    beside: bool = False  # begun and ended apart, with operations between

    @property
    def size(self) -> int:
        """Members of a group."""
        return len(self.groups[0])

    @property
    def moved(self) -> float:
        """Bytes that a chip receives each time, in the ring algorithms."""
        n = self.size
        passes = {"all-reduce": 2.0 * (n - 1) / n, "collective-permute": float(n > 1)}
        return self.bytes * passes.get(self.kind, (n - 1) / n)

    @property
    def traffic(self) -> float:
        """Bytes that it reads and writes in a chip's HBM in a step."""
        return self.times * (self.moved + self.bytes)


def collectives(module: Module) -> list[Collective]:
    """Every collective, also those in fusions. A start and its done are one; so are the parts of
    one that runs beside several fusions, which share its channel and chain."""
    found: dict[Any, Collective] = {}
    for computation, times in module.times.items():
        for line in module.computations[computation] if times else ():
            for part in module.inside(line):
                kind = part.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    key: tuple[str | None, ...] = (computation, part.name)
                    if part is not line and (channel := _CHANNEL.search(part.text)):
                        chain = _CHAIN.search(part.text)
                        key = (computation, kind, channel[1], chain and chain[1])
                    found.setdefault(key, _within(module, kind, part, line, times))
                elif kind == "send" and _ACROSS.search(part.text):
                    found[computation, part.name] = _between(module, part, times)
    return list(found.values())


def _within(module: Module, kind: str, part: Instruction, line: Instruction, times: float):
    groups = _groups(part.text, module.partitions)
    size = sum(module.lines[name].bytes for name in part.operands if name in module.lines)
    if kind == "all-gather":
        size *= len(groups[0])
    # A fusion that keeps one part of a sum is a reduce-scatter: the sum is not made whole.
    if kind == "all-reduce" and "all-reduce-scatter" in line.text.partition("metadata=")[0]:
        kind = "reduce-scatter"
    beside = part.opcode.endswith("-start") or _CHAIN.search(part.text) is not None
    return Collective(kind, size, times, groups, part.op_name or line.op_name, beside=beside)


def _between(module: Module, send: Instruction, times: float) -> Collective:
    """An exchange between slices, by what a chip sends."""
    kind = named(_ACROSS, send.text).lower().replace("_", "-")
    members = _SLICES.search(send.text)
    slices = [n for part in members[1].split(",") for n in _range(part)] if members else [0, 1]
    size = module.lines[send.operands[0]].bytes
    if kind == "all-gather":
        size *= len(slices)
    kind = kind if kind in COLLECTIVES else "collective-permute"
    return Collective(kind, size, times, (tuple(slices),), send.op_name, across=True)


def _range(text: str) -> range:
    """The numbers of "3" or of "0:7"."""
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


def _groups(text: str, partitions: int) -> tuple[tuple[int, ...], ...]:
    """The chips of every group of a collective, by their number in the mesh: all chips where it
    names none. Of pairs, those of two chips; a chip may be said to send to itself.

    ValueError where it names them in a way that is not known.
    """
    everyone = (tuple(range(partitions)),)
    if found := _PAIRS.search(text):
        pairs = [tuple(map(int, pair)) for pair in re.findall(r"(\d+),(\d+)", found[1])]
        return tuple(pair for pair in pairs if pair[0] != pair[1]) or ((0,),)
    if found := _LISTS.search(text):
        lists = (tuple(_numbers(one)) for one in re.findall(r"\{([\d,]*)\}", found[1]))
        return tuple(one for one in lists if one) or everyone
    if found := _IOTA.search(text):
        shape, dims, order = (_numbers(part) for part in found.groups())
        return _tuples(np.arange(math.prod(dims)).reshape(dims).transpose(order or None), shape)
    if found := _AXES.search(text):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        dims, order = _numbers(found[2]) or [math.prod(axes.values())], _numbers(found[3])
        chips = np.arange(math.prod(dims)).reshape(dims).transpose(order or None)
        own = [name in re.findall(r"'(\w+)'", found[4]) for name in axes]
        chips = chips.reshape(tuple(axes.values())).transpose(np.argsort(own, kind="stable"))
        size = math.prod(size for size, mine in zip(axes.values(), own, strict=True) if mine)
        return _tuples(chips, (-1, size))
    if "replica_groups=" in text:
        raise ValueError(f"groups of chips in words that are not known: {text}")
    return everyone


def _tuples(chips: np.ndarray, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, chips.reshape(shape).tolist()))


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in (text or "").split(",") if n]
