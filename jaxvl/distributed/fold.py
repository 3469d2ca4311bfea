# SPDX-License-Identifier: Apache-2.0
"""Axes of arrays on the mesh, cut and merged by einops' patterns."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P


def fold(x: jax.Array, pattern: str, **sizes: int) -> jax.Array:
    """`einops.rearrange` of a pattern that cuts axes and merges neighbours, in their order.

    With Explicit axes jax does not guess where the shards of a split axis go when a reshape cuts or
    merges it, and einops has no word for it. Here the first part of an axis keeps its shards, and
    merged axes have those of their first. What moves axes is einops' own, whose transpose jax
    follows.

    ValueError where a pattern moves an axis, or merges one that is split behind another.
    """
    before, after = (re.findall(r"\([^)]*\)|\S+", side) for side in pattern.split("->"))
    lead = x.ndim - len(before) + 1  # axes that "..." stands for
    shards: dict[str, tuple[Any, ...]] = {}
    start = 0
    for group in before:
        stop = start + (lead if group == "..." else 1)
        own = tuple(jax.typeof(x).sharding.spec[start:stop])
        first, *rest = _names(group)
        shards |= {first: own} | dict.fromkeys(rest, (None,))
        start = stop
    order = [[name for group in side for name in _names(group)] for side in (before, after)]
    if order[0] != order[1]:
        raise ValueError(f"{pattern!r} moves axes, which is for einops.rearrange")
    if lost := [name for group in after for name in _names(group)[1:] if any(shards[name])]:
        raise ValueError(f"{pattern!r} merges {lost[0]!r}, which is split over {shards[lost[0]]}")
    # einops reads the pattern on an array that takes no memory.
    shape = rearrange(np.broadcast_to(np.int8(0), x.shape), pattern, **sizes).shape
    spec = [axis for group in after for axis in shards[_names(group)[0]]]
    return jnp.reshape(x, shape, out_sharding=P(*spec))


def _names(group: str) -> list[str]:
    """The axes of a group: `(B S)` -> ["B", "S"]."""
    return group.strip("()").split()
