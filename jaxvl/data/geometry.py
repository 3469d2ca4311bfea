# SPDX-License-Identifier: Apache-2.0
"""Where tokens and patches stand: M-RoPE positions, coordinates, attention windows. Integers.

T tokens of a prompt, P patches, M = P / merge_size ** 2 merged patches of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from einops import rearrange

from jaxvl.errors import UserError

Grid = tuple[int, int, int]  # (1, h, w) of an image, in patches


def mrope_positions(
    tokens_T: np.ndarray, grids: Sequence[Grid], image_token_id: int, merge_size: int
) -> tuple[np.ndarray, int]:
    """M-RoPE positions [3, T] int32 (t, h, w) of a prompt, and the position that follows them.

    Text counts on by one on all three axes. An image starts at the next position: t stays there, h
    and w count its merged rows and columns; what follows starts after the larger of the two. This
    is `Qwen2VLModel.get_rope_index` of transformers, except that images whose tokens touch are told
    apart by their grids.
    """
    pads = np.flatnonzero(np.asarray(tokens_T) == image_token_id)
    merged = [(h // merge_size, w // merge_size) for _, h, w in grids]
    wanted = sum(h * w for h, w in merged)
    if len(pads) != wanted:
        raise UserError(f"{len(pads)} image tokens for grids {grids}, which make {wanted}")
    positions_3T = np.empty((3, len(tokens_T)), np.int32)
    index = position = used = 0
    for h, w in merged:
        start, end = pads[used], pads[used] + h * w
        used += h * w
        if pads[used - 1] != end - 1:
            raise UserError(
                f"the tokens of an image of {h} x {w} merged patches are not in one run"
            )
        positions_3T[:, index:start] = np.arange(start - index) + position
        position += start - index
        rows, columns = np.divmod(np.arange(h * w), w)
        positions_3T[:, start:end] = np.stack([np.zeros_like(rows), rows, columns]) + position
        position += max(h, w)
        index = end
    positions_3T[:, index:] = np.arange(len(tokens_T) - index) + position
    return positions_3T, int(position + len(tokens_T) - index)


def patch_coords(grid: Grid, merge_size: int) -> np.ndarray:
    """(h, w) of every patch of an image, [P, 2] int32, in merge order: block by block of merge_size
    x merge_size, as `get_vision_position_ids` of transformers has them."""
    _, h, w = grid
    return rearrange(
        np.indices((h, w), np.int32),
        "hw (hb hm) (wb wm) -> (hb wb hm wm) hw",
        hm=merge_size,
        wm=merge_size,
    )


class Layout(NamedTuple):
    """How the patches of a prompt's images lie one after the other; int32, see `lay_out`."""

    order_P: np.ndarray  # the number in merge order of the patch at each place
    coords_P2: np.ndarray  # its (h, w) in its image
    segments_P: np.ndarray  # its image: 1, 2, ..
    windows_P: np.ndarray  # its attention window: 1, 2, .. over all images
    slots_M: np.ndarray  # where the merged patch of each image token has gone


def lay_out(grids: Sequence[Grid], merge_size: int, window: int) -> Layout:
    """The patches of images, window by window; `window` is 0 where a window is a whole image.

    An attention window is a square of `window` x `window` merged patches; those at an image's right
    and lower edge hold what is left. Windows come row by row, as the merged patches in each do:
    the order of `get_vision_window_index` of transformers.
    """
    orders, numbers = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    patches = windows = 0
    for _, h, w in grids:
        merged = np.indices((h // merge_size, w // merge_size), np.int32)
        rows, columns = rearrange(merged, "hw h w -> hw (h w)")
        across = -(-w // (merge_size * window)) if window else 1
        number_M = rows // window * across + columns // window if window else np.zeros_like(rows)
        order_M = np.argsort(number_M, kind="stable").astype(np.int32)
        orders.append(order_M + patches)
        numbers.append(number_M[order_M] + windows + 1)
        patches += len(order_M)
        windows += number_M.max() + 1
    order_M, block = np.concatenate(orders), np.arange(merge_size**2, dtype=np.int32)
    order_P = rearrange(order_M[:, None] * len(block) + block, "M m -> (M m)")
    coords = [np.zeros((0, 2), np.int32)] + [patch_coords(grid, merge_size) for grid in grids]
    images = np.arange(1, len(grids) + 1, dtype=np.int32)
    return Layout(
        order_P=order_P,
        coords_P2=np.concatenate(coords)[order_P],
        segments_P=np.repeat(images, [h * w for _, h, w in grids]),
        windows_P=np.repeat(np.concatenate(numbers), len(block)),
        slots_M=np.argsort(order_M).astype(np.int32),
    )
