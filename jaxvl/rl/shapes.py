# SPDX-License-Identifier: Apache-2.0
"""The shapes that a run's programs are compiled for, known before its first prompt is read.

A `jax.ShapeDtypeStruct` stands wherever the batch has an array.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.config import BatchShape, Data
from jaxvl.data import packing
from jaxvl.data.image_settings import BYTES
from jaxvl.distributed.mesh import ROWS
from jaxvl.models.inputs import Prompt, Vision
from jaxvl.rl.batch import TrainBatch


def buckets(data: Data) -> list[tuple[int, int]]:
    """(T, Q) that a batch may have. A row that needs Q patches, four of which are a token, does not
    fit any T: such pairs are left out."""
    prompts, patches = sizes(data)
    smaller = dict(zip(patches[1:], patches[:-1], strict=True))
    pairs = itertools.product(prompts, patches)
    return [(T, Q) for T, Q in pairs if T > smaller.get(Q, 0) // 4]


def sizes(data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The buckets of tokens and of patches, as numbers."""
    tokens, patches = data.prompt_buckets, data.patch_buckets
    assert not isinstance(tokens, str) and not isinstance(patches, str), (
        "a run reads `auto` off its data before anything is made"
    )
    return tokens, patches


def prompts(
    data: Data, rows: int, patch_values: int, mesh: Mesh, dtype: str = "float32"
) -> Iterator[Prompt]:
    """The shapes of a batch of `rows` rows for every pair of buckets, as they lie on the mesh.
    `patch_values` and `dtype` are those of the patches (`ImageSettings`)."""

    def shape(*sizes: int, dtype=jnp.int32) -> Any:
        sharding = NamedSharding(mesh, P(ROWS, *(None,) * len(sizes)))
        return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=sharding)

    for T, patches in buckets(data):
        yield Prompt(
            tokens=shape(T),
            length=shape(),
            positions=shape(3, T),
            next_position=shape(),
            slots=shape(T),
            prompt_id=shape(),
            completion=shape(),
            vision=Vision(
                patches=shape(patches, patch_values, dtype=jnp.dtype(dtype)),
                coords=shape(patches, 2),
                segments=shape(patches),
                windows=shape(patches),
                pixels=shape(4, 3, dtype=jnp.float32) if dtype == BYTES else None,
            ),
        )


def row_batch(
    data: Data,
    step: BatchShape,
    patch_values: int,
    pieces: int,
    count: int,
    mesh: Mesh,
    dtype: str = "float32",
) -> TrainBatch:
    """The shapes of `count` micro-batches of whole rows, in the largest buckets; the rows of a step
    are cut in `pieces`. Of patches as `prompts` has them."""
    tokens, patches = (max(of) for of in sizes(data))
    room = packing.room(step.whole_rows or "answer", tokens, patches, step.length)
    largest = dataclasses.replace(
        data, prompt_buckets=(room.tokens,), patch_buckets=(room.patches,)
    )
    (prompt,) = prompts(largest, step.rows, patch_values, mesh, dtype)
    found = batch(prompt, 1, room.counted, pieces, count, mesh)

    def places(tokens: int) -> Any:
        sharding = NamedSharding(mesh, P(None, ROWS, None))
        return jax.ShapeDtypeStruct(
            (count, step.rows // pieces, tokens), jnp.int32, sharding=sharding
        )

    return dataclasses.replace(found, examples=places(room.tokens), at=places(room.counted))


def batch(
    prompt: Prompt, completions: int, tokens: int, pieces: int, count: int, mesh: Mesh
) -> TrainBatch:
    """The shapes of `count` micro-batches to learn from, where the rows of `prompt` are cut in
    `pieces`."""
    rows = prompt.tokens.shape[0]

    def cut(x: jax.ShapeDtypeStruct) -> Any:
        sharding = NamedSharding(mesh, P(None, ROWS, *(None,) * (len(x.shape) - 1)))
        return jax.ShapeDtypeStruct(
            (count, rows // pieces, *x.shape[1:]), x.dtype, sharding=sharding
        )

    def shape(*sizes: int, dtype=np.float32) -> Any:
        return cut(jax.ShapeDtypeStruct((rows, *sizes), dtype))

    return TrainBatch(
        prompt=jax.tree.map(cut, prompt),
        tokens=shape(completions, tokens, dtype=jnp.int32),
        mask=shape(completions, tokens, dtype=bool),
        advantages=shape(completions),
        old_logps=shape(completions, tokens),
        ref_logps=shape(completions, tokens),
    )
