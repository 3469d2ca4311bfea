# SPDX-License-Identifier: Apache-2.0
"""What a model sees: prompts and their images as arrays with the row axis R in front.

R rows (a prompt and g of its G completions each), T prompt tokens, Q patches of a row, M = Q/4
merged patches, E values in a patch. Of prompts that begin alike a row has several: T tokens that
they share, and q suffixes of F tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Float32, Int32, UInt8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Vision:
    """The images of each row, their patches one after the other."""

    # float32 or as products take them; or the image's bytes (`pixel_values`). Zeros on padding.
    patches: Float[Array, "R Q E"] | UInt8[Array, "R Q E"]
    coords: Int32[Array, "R Q 2"]  # (h, w) of a patch in its image
    segments: Int32[Array, "R Q"]  # 1, 2, .. the image of a patch; 0 on padding
    windows: Int32[Array, "R Q"]  # 1, 2, .. its attention window, in order; 0 on padding
    # What makes values of bytes (`ImageSettings.pixels`), the same in every row.
    pixels: Float32[Array, "R 4 3"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Suffixes:
    """What follows in each of a row's q prompts behind the tokens that they share: text, padded on
    the right. Of a row's g completions the first g/q are those of the first."""

    tokens: Int32[Array, "R q F"]
    length: Int32[Array, "R q"]  # real tokens, at least one
    positions: Int32[Array, "R q F"]  # text has the same t, h and w
    next_position: Int32[Array, "R q"]
    prompt_id: Int32[Array, "R q"]
    completion: Int32[Array, "R q"]  # of its first; below 0: it is nobody's


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """Prompts of R rows, padded on the right.

    With `suffixes` it is what a row's prompts begin with, their images among it; `next_position`
    and `prompt_id` then mean nothing, and `completion` is below 0 where all suffixes are nobody's.
    """

    tokens: Int32[Array, "R T"]
    length: Int32[Array, " R"]  # real tokens
    positions: Int32[Array, "R 3 T"]  # (t, h, w) of M-RoPE
    next_position: Int32[Array, " R"]  # position of the first completion token
    slots: Int32[Array, "R T"]  # index among the row's merged patches; -1: a text token
    prompt_id: Int32[Array, " R"]  # the prompt's number in the run
    completion: Int32[Array, " R"]  # index of the row's first completion in its group
    vision: Vision
    suffixes: Suffixes | None = None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Prompt:
        """From the dict that `jaxvl.data.prompts.collate` makes, or `jaxvl.data.suffixes`."""
        on_host: Mapping[str, Any] = arrays  # numpy's, in the places of jax's
        vision = Vision(
            **{f.name: on_host[f.name] for f in dataclasses.fields(Vision) if f.name in on_host}
        )
        nested = ("vision", "suffixes")
        names = [f.name for f in dataclasses.fields(cls) if f.name not in nested]
        suffixes = Suffixes(**on_host["suffixes"]) if "suffixes" in on_host else None
        return cls(**{name: on_host[name] for name in names}, vision=vision, suffixes=suffixes)
