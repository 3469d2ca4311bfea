# SPDX-License-Identifier: Apache-2.0
"""The chips that a plan knows, from their makers' data sheets, and how they are wired."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.observe import flops

GB, GiB = 1e9, 2.0**30


def _peak(kind: str) -> float:
    peak = flops.peak(kind, "bfloat16")
    assert peak is not None, f"no peak of a {kind} is known"
    return peak


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip: what a jax device is on every kind here (two cores that work as one on v4 and
    v5p)."""

    name: str
    kind: str  # what jax calls the device
    hbm: float  # bytes of memory that a program may take: what the TPU compiler says
    bandwidth: float  # bytes/s of HBM
    link: float  # bytes/s one way of one link between neighbours
    dcn: float | None  # bytes/s one way of its share in the network between slices
    axes: int  # a slice is a torus or a grid of so many axes; two links on each
    ring: int  # an axis has its ends joined where it is a multiple of this; on three, all must be
    clock: float  # Hz: what its peak and the size of its matrix units make

    @property
    def flops(self) -> float:
        """FLOP/s of bfloat16 products."""
        return _peak(self.kind)

    @property
    def source(self) -> str:
        """Where its figures are from."""
        return f"https://cloud.google.com/tpu/docs/{self.name}; HBM: libtpu's own limit"


CHIPS = {
    chip.name: chip
    for chip in (
        # Links: the bandwidth that the page gives for a chip, both ways, over its ports and by two.
        # DCN: what it gives for a pod, over its chips; v4's and v5p's pages do not.
        Chip("v4", "TPU v4", 30.75 * GiB, 1200 * GB, 50 * GB, None, 3, 4, 1.05e9),
        Chip("v5e", "TPU v5 lite", 15.75 * GiB, 819 * GB, 50 * GB, 3.125 * GB, 2, 16, 1.5e9),
        Chip("v5p", "TPU v5", 95.74 * GiB, 2765 * GB, 100 * GB, None, 3, 4, 1.75e9),
        Chip("v6e", "TPU v6 lite", 31.25 * GiB, 1638 * GB, 100 * GB, 12.5 * GB, 2, 16, 1.75e9),
    )
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU of which the memory alone is known: what a plan by counting needs."""

    name: str
    hbm: float  # bytes of memory that a run takes
    source: str


GPU_SHARE = 0.92  # of a GPU's memory that a run takes when it starts; the rest is for libraries
GPU = Gpu("GPU of 80 GB", GPU_SHARE * 80 * GB, f"{GPU_SHARE:.0%} of the makers' 80 GB (A100, H100)")


@dataclasses.dataclass(frozen=True)
class Nvidia:
    """An NVIDIA GPU that programs are compiled for; `target` has what XLA asks about it."""

    name: str
    kind: str  # what jax calls the device
    memory: float  # bytes, as the driver counts them
    bandwidth: float  # bytes/s of memory
    link: float  # bytes/s one way of a GPU's NVLink, over a switch to all others of its machine

    @property
    def hbm(self) -> float:
        """Bytes that a run takes when it starts."""
        return GPU_SHARE * self.memory

    @property
    def flops(self) -> float:
        """FLOP/s of bfloat16 products."""
        return _peak(self.kind)

    @property
    def target(self) -> Path:
        """XLA's description of it: a GpuTargetConfigProto as text."""
        return Path(__file__).parent / "targets" / f"{self.name}.txtpb"

    @property
    def source(self) -> str:
        """Where its figures are from."""
        page = f"https://www.nvidia.com/en-us/data-center/{self.name}"
        return f"{page}; {GPU_SHARE:.0%} of {self.memory / GB:.1f} GB"


GPUS = {
    gpu.name: gpu
    for gpu in (
        Nvidia("a100", "NVIDIA A100-SXM4-80GB", 85.1 * GB, 2039 * GB, 300 * GB),
        Nvidia("h100", "NVIDIA H100 80GB HBM3", 84.94 * GB, 3352 * GB, 450 * GB),
        Nvidia("h200", "NVIDIA H200", 151.4 * GB, 4800 * GB, 450 * GB),
    )
}
NODE = 8  # GPUs that one switch joins


@dataclasses.dataclass(frozen=True)
class GpuNode:
    """GPUs of one machine."""

    chip: Nvidia
    chips: int
    slices = 1

    @classmethod
    def of(cls, name: str, count: int) -> GpuNode:
        """Of so many GPUs; UserError where they are not known, or too many for one machine."""
        if name not in GPUS:
            raise UserError(f"--gpu {name}: no such GPU; expected one of {', '.join(GPUS)}")
        if not 1 <= count <= NODE:
            raise UserError(
                f"--gpus {count}: expected 1 to {NODE} with --gpu, which one switch joins; how "
                "fast machines are joined is not known here. Without --gpu the memory of any "
                "number is counted"
            )
        return cls(GPUS[name], count)

    def __str__(self) -> str:
        return f"{self.chips} x {self.chip.kind}"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of the same kind: each is a grid of chips, and the data centre joins them."""

    chip: Chip
    shape: tuple[int, ...]  # of a slice: as many numbers as the chip has axes
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> Topology:
        """From "v5e:4x4"; a v4 or v5p has three axes, of which the last may be left out."""
        name, _, sizes = text.partition(":")
        if name not in CHIPS:
            raise UserError(
                f"--topology {text}: no chip {name!r}; expected one of {', '.join(CHIPS)}, "
                "as in v5e:4x4"
            )
        chip = CHIPS[name]
        parts = sizes.split("x")
        if not all(part.isdecimal() and int(part) > 0 for part in parts) or not (
            2 <= len(parts) <= chip.axes
        ):
            example = "4x4" if chip.axes == 2 else "2x2x2"
            raise UserError(
                f"--topology {text}: expected {chip.axes} sizes of a slice, as in {name}:{example}"
            )
        shape = tuple(int(part) for part in parts)
        if slices > 1 and chip.dcn is None:
            known = ", ".join(chip.name for chip in CHIPS.values() if chip.dcn)
            raise UserError(
                f"--slices {slices}: how fast slices of {name} are joined is not published; "
                f"known of {known}"
            )
        return cls(chip, shape + (1,) * (chip.axes - len(shape)), slices)

    @property
    def slice_name(self) -> str:
        """Of one slice, as libtpu knows it."""
        return f"{self.chip.name}:{'x'.join(str(size) for size in self.shape)}"

    def __str__(self) -> str:
        return f"{self.slices} x {self.slice_name}" if self.slices > 1 else self.slice_name

    @property
    def slice_chips(self) -> int:
        """Chips of one slice."""
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slice_chips * self.slices

    def joined(self, axis: int) -> bool:
        """Whether the ends of a slice's axis are neighbours."""
        sizes = self.shape if self.chip.axes == 3 else (self.shape[axis],)
        return all(size % self.chip.ring == 0 for size in sizes)
