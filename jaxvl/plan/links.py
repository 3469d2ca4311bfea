# SPDX-License-Identifier: Apache-2.0
"""How long chips exchange data at least, over the links of a slice or the switch of a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jaxvl.plan.chips import GpuNode, Topology
from jaxvl.plan.collectives import Collective


def seconds(
    topology: Topology | GpuNode, places: Sequence[Sequence[int]], one: Collective
) -> float:
    """Of one time that chips come by the collective, all its groups at work.

    GPUs of a machine have all of their link whomever they exchange with. Of a slice `places` are
    the chips' in it, by their number in the mesh, and two things bound it: what a chip receives,
    over the links that it has to where its group lies; and what must cross a plane between the
    chips of two halves of the slice, over all links through it.
    """
    if one.size < 2:
        return 0.0
    if isinstance(topology, GpuNode):
        return one.moved / topology.chip.link
    groups = [[places[number] for number in group] for group in one.groups]
    links = min(_links(topology, group) for group in groups)
    busiest = one.moved / links
    for axis, near, through in _cuts(topology):
        crossing = sum(_crossing(one, [near(place[axis]) for place in group]) for group in groups)
        busiest = max(busiest, crossing / through)
    return busiest / topology.chip.link


def _links(topology: Topology, group: Sequence[Sequence[int]]) -> int:
    """Of a chip at the edge of a group towards the others: one on every axis along which the group
    lies, two on one with its ends joined, all of which the group takes."""
    count = 0
    for axis, size in enumerate(topology.shape):
        spread = {place[axis] for place in group}
        if len(spread) > 1:
            count += 2 if topology.joined(axis) and len(spread) == size else 1
    return max(count, 1)


def _cuts(topology: Topology) -> Iterator[tuple[int, Callable[[int], bool], int]]:
    """Ways to cut a slice in two: (axis, whether a place is on one side, links through the cut)."""
    for axis, size in enumerate(topology.shape):
        section = topology.slice_chips // size
        if topology.joined(axis):
            yield axis, range(size // 2).__contains__, 2 * section
        else:
            for first in range(1, size):
                yield axis, range(first).__contains__, section


def _crossing(one: Collective, near: Sequence[bool]) -> float:
    """Bytes that have to go through a cut one way, for a group whose members are `near` or not."""
    n, here = len(near), sum(near)
    there = n - here
    if not here or not there:
        return 0.0
    if one.kind == "all-reduce":  # each half needs the sum of what the other has
        return one.bytes
    if one.kind == "all-to-all":
        return one.bytes * here * there / n
    if one.kind == "collective-permute":  # of a pair, one way
        return one.bytes if near[0] else 0.0
    return one.bytes * max(here, there) / n  # a gather, or its mirror image
