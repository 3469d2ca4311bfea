# SPDX-License-Identifier: Apache-2.0
"""Folds are einops' own numbers, and leave every shard on its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, make_mesh

MESH = make_mesh(2, 2, 2)


@pytest.mark.parametrize(
    ("shape", "spec", "pattern", "sizes", "after"),
    [
        ((4, 3, 8), (ROWS, None, "tensor"), "R S (N H) -> R S N H", {"N": 4}, "R-T-"),
        ((4, 3, 4, 2), (ROWS, None, "tensor", None), "R S N H -> R S (N H)", {}, "R-T"),
        ((8, 3, 2), (ROWS, None, None), "(B r) g ... -> B (r g) ...", {"B": 4}, "R--"),
        ((4, 6, 2), (ROWS, None, None), "B (r g) ... -> (B r) g ...", {"g": 3}, "R--"),
        ((4, 1, 6), (ROWS, None, None), "R one S -> R (one S)", {}, "R-"),
    ],
)
def test_a_fold_is_einops_and_keeps_shards(shape, spec, pattern, sizes, after):
    """`after`: what each axis is split over, R for rows, T for tensor."""
    x = np.arange(np.prod(shape)).reshape(shape)
    with jax.set_mesh(MESH):
        placed = jax.device_put(x, jax.NamedSharding(MESH, P(*spec)))
        found = jax.jit(lambda x: fold(x, pattern, **sizes))(placed)
        letters = {None: "-", ROWS: "R", "tensor": "T"}
        assert "".join(letters[axis] for axis in jax.typeof(found).sharding.spec) == after
    np.testing.assert_array_equal(found, rearrange(x, pattern, **sizes))


@pytest.mark.parametrize(
    ("pattern", "words"), [("R S D -> S R D", "moves axes"), ("R S D -> R (S D)", "merges 'D'")]
)
def test_a_fold_that_shards_cannot_follow_is_refused(pattern, words):
    with jax.set_mesh(MESH):
        x = jnp.zeros((4, 2, 2), out_sharding=P(ROWS, None, "tensor"))
        with pytest.raises(ValueError, match=words):
            fold(x, pattern)
