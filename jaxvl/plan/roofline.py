# SPDX-License-Identifier: Apache-2.0
"""How long a program takes at least, if nothing but its slowest resource counts.

Compute, HBM and the links between chips and between slices are taken to overlap fully, exchanges to
come one after the other; so this is a bound that a chip approaches, no forecast. Model FLOPs over
it and over the chips' peak are a ceiling of MFU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxvl.plan import links
from jaxvl.plan.chips import Chip, GpuNode, Topology
from jaxvl.plan.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a program on every resource of a chip."""

    compute: float
    hbm: float
    ici: float  # links of chips: ICI of a slice, NVLink of GPUs
    dcn: float = 0.0  # the data centre's network, between slices

    @property
    def seconds(self) -> float:
        """The time of the slowest resource, as if all the others overlapped with it."""
        return max(self.compute, self.hbm, self.ici, self.dcn)

    @property
    def bound(self) -> str:
        """The resource that the program waits for."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name])


def roofline(
    topology: Topology | GpuNode,
    coords: Sequence[Sequence[int]],
    flops: float,
    traffic: float,
    collectives: Sequence[Collective],
) -> Roofline:
    """Of what one chip does in a step: FLOPs, bytes to and from HBM, collectives.

    `coords` are the places in their slice of the mesh's devices, by their number in the mesh.
    """
    chip, ici, dcn = topology.chip, 0.0, 0.0
    for one in collectives:
        if one.across:
            # `Topology.parse` refuses slices of chips whose network is not known.
            assert isinstance(chip, Chip) and chip.dcn is not None
            dcn += one.times * one.moved / chip.dcn
        else:
            ici += one.times * links.seconds(topology, coords, one)
    return Roofline(flops / chip.flops, traffic / chip.bandwidth, ici, dcn)
