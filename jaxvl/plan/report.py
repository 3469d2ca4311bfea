# SPDX-License-Identifier: Apache-2.0
"""What a plan finds: numbers of every program and of a step, as data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxvl.plan.forecast import Forecast
from jaxvl.plan.roofline import Roofline

SPARE = 0.1  # of a chip's memory, that should stay free


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind and group size, in one call of a program."""

    kind: str
    group: int  # chips in a group, or slices
    count: float  # how many, loops unrolled
    bytes: float  # that a chip receives, all together
    across: bool = False  # between slices, over the data centre's network


@dataclasses.dataclass(frozen=True)
class Large:
    """A large array, and the setting that makes it smaller ("" where none does)."""

    bytes: float
    shape: str
    where: str
    setting: str


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """One program of a run on one chip. Sizes in bytes, work per call."""

    name: str
    calls: int  # in a step
    memory: dict[str, float]  # by kind; "beside" is what a run holds that the program does not see;
    # of a refused program without "temporaries", where the compiler does not say how much it wants
    held: dict[str, float] = dataclasses.field(default_factory=dict)  # of it, by what it is
    refused: str = ""  # the compiler's words, where it made nothing of it
    compile_seconds: float | None = None  # None: not compiled
    model_flops: float = 0.0
    turns: int = 1  # of the loop whose length the program does not say: tokens of decoding
    flops: float = 0.0  # executed: computed again and padding included
    traffic: float = 0.0  # bytes read and written in HBM
    collectives: tuple[Traffic, ...] = ()
    kernels: dict[str, float] = dataclasses.field(default_factory=dict)  # of attention, by target
    roofline: Roofline | None = None
    forecast: Forecast | None = None  # None: it was not compiled
    largest: tuple[Large, ...] = ()
    warnings: tuple[str, ...] = ()
    formula: float | None = None  # of an update: its temporaries as they should be

    @property
    def total(self) -> float:
        return sum(self.memory.values())

    @property
    def sized(self) -> bool:
        """Whether `total` is all that the program takes."""
        return not self.refused or "temporaries" in self.memory


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on a slice of chips, or on GPUs. `exact` is False where a formula stands in for
    the compiler."""

    config: str
    target: str
    chips: int
    slices: int
    mesh: dict[str, int]
    hbm: float  # bytes of a chip
    peak: float | None  # FLOP/s of a chip; None: no times are estimated
    source: str  # of the chip's figures
    exact: bool
    prompts_field: str  # the field of the config that says how many prompts a step has
    sizes: dict[str, int]
    programs: tuple[ProgramReport, ...]
    row: float  # bytes that one row more in a micro-batch takes on a chip, by our formula
    notes: tuple[str, ...] = ()  # what is left out, in words
    links: str = "ICI"  # what joins the chips of a slice, or the GPUs of a machine

    @property
    def fits(self) -> bool:
        """Whether a chip has room for every program."""
        return all(self.holds(program) for program in self.programs)

    def holds(self, program: ProgramReport) -> bool:
        """Whether a chip has room for a program and all that a run holds beside it."""
        return not program.refused and program.total <= self.hbm

    @property
    def seconds(self) -> float | None:
        """The step's bound: its programs one after the other; None where they were not compiled."""
        bounds = [(p.calls, p.roofline.seconds) for p in self.programs if p.roofline is not None]
        if len(bounds) < len(self.programs):
            return None
        return sum(calls * seconds for calls, seconds in bounds)

    @property
    def largest_micro_batch(self) -> int | None:
        """Rows of a chip in a micro-batch with which the update leaves `SPARE` of the memory free:
        what was compiled, and by our formula what fits beside it or has to go. None where the
        compiler does not say what the update takes."""
        update = next(p for p in self.programs if p.name == "update")
        if not update.sized:
            return None
        shards = self.mesh["data"] * self.mesh["fsdp"]
        rows = self.sizes["rows"] // self.sizes["micro_batches"] // shards
        return max(rows + math.floor(((1 - SPARE) * self.hbm - update.total) / self.row), 0)

    @property
    def forecast(self) -> float | None:
        """Seconds of a step's programs, operation by operation; None where not all of them were
        compiled."""
        found = [(p.calls, p.forecast.seconds) for p in self.programs if p.forecast is not None]
        if self.seconds is None or not found:
            return None
        return sum(calls * seconds for calls, seconds in found)

    @property
    def on_top(self) -> dict[str, float]:
        """Seconds of a step, estimated, that the forecast leaves out: of sorts, and of exchanges
        that nothing runs beside; and of those that operations run beside."""
        found = [(p.calls, p.forecast) for p in self.programs if p.forecast is not None]
        return {
            "sorts": sum(calls * one.sorts for calls, one in found),
            "exchanges": sum(calls * one.exchanges for calls, one in found),
            "exchanges_beside": sum(calls * one.beside for calls, one in found),
        }

    def mfu_ceiling(self, name: str) -> float | None:
        """Model FLOPs of a program over what the chip could do in its bound."""
        return self._mfu(name, "roofline")

    def mfu_forecast(self, name: str) -> float | None:
        """Model FLOPs of a program over what the chip could do in its forecast."""
        return self._mfu(name, "forecast")

    def _mfu(self, name: str, by: str) -> float | None:
        program = next(p for p in self.programs if p.name == name)
        time = getattr(program, by)
        return time and program.model_flops / (time.seconds * self.peak)

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        found = dataclasses.asdict(self)
        for program, entry in zip(self.programs, found["programs"], strict=True):
            entry["total"] = program.total
            if program.roofline:
                entry["roofline"] |= {
                    "seconds": program.roofline.seconds,
                    "bound": program.roofline.bound,
                }
            if program.forecast:
                entry["forecast"]["seconds"] = program.forecast.seconds
        return found | {
            "fits": self.fits,
            "step_seconds": self.seconds,
            "forecast_seconds": self.forecast,
            "on_top_seconds": self.on_top,
            "update_mfu_ceiling": self.mfu_ceiling("update"),
            "update_mfu_forecast": self.mfu_forecast("update"),
            "largest_micro_batch": self.largest_micro_batch,
        }
