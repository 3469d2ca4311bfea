# SPDX-License-Identifier: Apache-2.0
"""The shapes that a run's programs are compiled for, known before its first prompt is read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.config import BatchShape, Data
from jaxvl.data import packing
from jaxvl.distributed.mesh import ROWS
from jaxvl.models.inputs import Prompt, Vision
from jaxvl.rl.batch import TrainBatch


def buckets(data: Data) -> list[tuple[int, int]]:
    """(T, P) that a batch may have. A row that needs P patches, four of which are a token, does not
    fit any T: such pairs are left out."""
    smaller = dict(zip(data.patch_buckets[1:], data.patch_buckets[:-1], strict=True))
    pairs = itertools.product(data.prompt_buckets, data.patch_buckets)
    return [(T, patches) for T, patches in pairs if T > smaller.get(patches, 0) // 4]


def prompts(
    data: Data, rows: int, patch_values: int, mesh: Mesh, dtype: str = "float32"
) -> Iterator[Prompt]:
    """The shapes of a batch of `rows` rows for every pair of buckets, as they lie on the mesh.
    `dtype` is that of the model's products."""

    def shape(*sizes: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
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
            ),
        )


def row_batch(
    data: Data, step: BatchShape, patch_values: int, pieces: int, count: int, mesh: Mesh
) -> TrainBatch:
    """The shapes of `count` micro-batches of whole rows, in the largest buckets; the rows of a step
    are cut in `pieces`."""
    most = max(data.prompt_buckets), max(data.patch_buckets), step.length
    room = packing.room(step.whole_rows or "answer", *most)
    largest = dataclasses.replace(
        data, prompt_buckets=(room.tokens,), patch_buckets=(room.patches,)
    )
    (prompt,) = prompts(largest, step.rows, patch_values, mesh)
    found = batch(prompt, 1, room.counted, pieces, count, mesh)

    def places(tokens: int) -> jax.ShapeDtypeStruct:
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

    def cut(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, P(None, ROWS, *(None,) * (len(x.shape) - 1)))
        return jax.ShapeDtypeStruct(
            (count, rows // pieces, *x.shape[1:]), x.dtype, sharding=sharding
        )

    def shape(*sizes: int, dtype=np.float32) -> jax.ShapeDtypeStruct:
        return cut(jax.ShapeDtypeStruct((rows, *sizes), dtype))

    return TrainBatch(
        prompt=jax.tree.map(cut, prompt),
        tokens=shape(completions, tokens, dtype=jnp.int32),
        mask=shape(completions, tokens, dtype=bool),
        advantages=shape(completions),
        old_logps=shape(completions, tokens),
        ref_logps=shape(completions, tokens),
    )
