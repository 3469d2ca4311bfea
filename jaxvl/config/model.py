# SPDX-License-Identifier: Apache-2.0
"""What a run trains, on which devices and by which optimizer. They are fields of `jaxvl.config`,
and imported from there."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Interval

Part = Literal["tower", "merger", "text"]
Projection = Literal["q", "k", "v", "o", "gate", "up", "down", "fc1", "fc2"]
SMALLEST = 1.2e-38  # what is less is 0 in float32


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, x w + (alpha / rank) x a b, beside the weights of frozen parts."""

    rank: Annotated[int, Ge(1)] = 16
    """Columns of a, rows of b."""
    alpha: Annotated[float, Gt(0)] = 32.0
    """Scale of an adapter, divided by its rank."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of x that is dropped, in updates alone."""
    targets: tuple[Projection, ...] = get_args(Projection)
    """Projections that have adapters, where a part has them."""
    parts: tuple[Part, ...] = ("text",)
    """Parts that have adapters; they are not in model.train."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The policy: a Hugging Face checkpoint.

    The parts in `train` train, with float32 masters; the others are frozen and held in `dtype`. The
    limits on pixels hold for the whole run and are exported with the model.
    """

    path: str
    """The checkpoint's directory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products that the model is computed in."""
    float32_head: bool = False
    """Logits by a float32 product whatever dtype is."""
    remat: Literal["block", "products"] = "block"
    """What a layer keeps for the backward pass: its input, or the products of its weights too
    (faster, for several times the memory)."""
    min_pixels: Annotated[int, Ge(1)] | None = None
    """Smaller images are scaled up to it (none: what the checkpoint's processor says)."""
    max_pixels: Annotated[int, Ge(1)] | None = None
    """Larger images are scaled down to it (none: what the checkpoint's processor says)."""
    train: tuple[Part, ...] = get_args(Part)
    """Parts whose own weights train."""
    lora: LoRA | None = None
    """Adapters that train beside frozen parts."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 on at most one axis means all that remain."""

    data: Annotated[int, Ge(1)] | Literal[-1] = 1
    """Rows are split over it."""
    fsdp: Annotated[int, Ge(1)] | Literal[-1] = 1
    """Rows are split over it, and parameters, which are gathered where they are used."""
    tensor: Annotated[int, Ge(1)] | Literal[-1] = 1
    """Heads, hidden units and the vocabulary are split over it."""


@dataclasses.dataclass(frozen=True)
class Optim:
    """AdamW with a schedule over `horizon` updates, and clipping by global norm.

    The learning rate rises over the first `warmup_steps` updates to `lr`. Linear and cosine
    schedules reach `min_lr` at the horizon and stay there. It is that of the whole experiment: a
    run of fewer updates, to try it or to go on later, sees the beginning of the same schedule.
    """

    lr: Annotated[float, Ge(0)] = 1e-6
    """The highest learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after its warm-up."""
    min_lr: Annotated[float, Ge(0)] = 0.0
    """The learning rate at the horizon."""
    warmup_steps: Annotated[float, Ge(0)] = 0
    """Updates of warm-up; below 1 a share of the horizon. They are never more than it."""
    horizon: Annotated[int, Ge(1)] | None = None
    """Updates of the schedule (none: all of the run)."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's, of all that trains."""
    b1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients."""
    b2: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Decay of the mean of their squares."""
    eps: Annotated[float, Ge(SMALLEST)] = 1e-8
    """Added to the root of that mean."""
    clip_norm: Annotated[float, Ge(SMALLEST)] = 1.0
    """A gradient of a larger norm is scaled down to it."""
    grad_norm_warn: Annotated[float, Ge(1)] | None = 10.0
    """A gradient norm above so many times its running median is told on the console, with the
    prompts that it is of (none: never)."""

    def span(self, updates: int) -> tuple[int, int]:
        """Warm-up and horizon of a run of so many updates, in updates."""
        horizon = self.horizon or updates
        share = 0 < self.warmup_steps < 1
        steps = round(self.warmup_steps * horizon) if share else int(self.warmup_steps)
        return min(steps, horizon), horizon
