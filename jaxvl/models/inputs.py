# SPDX-License-Identifier: Apache-2.0
"""What a model sees: prompts and their images as arrays with the row axis R in front.

R rows (a prompt and g of its G completions each), T prompt tokens, P patches of a row, M = P/4
merged patches, E values in a patch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Vision:
    """The pictures of each row, their patches one after the other."""

    patches: jax.Array  # [R, P, E] float32 or as products take them, zeros on padding
    coords: jax.Array  # [R, P, 2] int32, (h, w) of a patch in its picture
    segments: jax.Array  # [R, P] int32, 1, 2, .. the picture of a patch; 0 on padding
    windows: jax.Array  # [R, P] int32, 1, 2, .. its attention window, in order; 0 on padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """Prompts of R rows, padded on the right."""

    tokens: jax.Array  # [R, T] int32
    length: jax.Array  # [R] int32, real tokens
    positions: jax.Array  # [R, 3, T] int32, (t, h, w) of M-RoPE
    next_position: jax.Array  # [R] int32, position of the first completion token
    slots: jax.Array  # [R, T] int32, index among the row's merged patches; -1: a text token
    prompt_id: jax.Array  # [R] int32, the prompt's number in the run
    completion: jax.Array  # [R] int32, index of the row's first completion in its group
    vision: Vision

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Prompt:
        """From the dict that `jaxvl.data.prompts.collate` makes."""
        vision = Vision(**{f.name: arrays[f.name] for f in dataclasses.fields(Vision)})
        names = [f.name for f in dataclasses.fields(cls) if f.name != "vision"]
        return cls(**{name: arrays[name] for name in names}, vision=vision)
