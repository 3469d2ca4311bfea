# SPDX-License-Identifier: Apache-2.0
"""Digests see every change of an array and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxvl.checkpoints.digests import changed, digests
from jaxvl.distributed.mesh import make_mesh

ARRAYS = {
    "matrix": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32),
    "stacked": np.random.default_rng(1).normal(size=(2, 8, 8)).astype(jnp.bfloat16),
    "count": np.int32(7),
    "mask": np.array([True, False, True]),
}


def flip(array, bit):
    data = bytearray(np.asarray(array).tobytes())
    data[bit // 8] ^= 1 << bit % 8
    return np.frombuffer(bytes(data), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("name", ["matrix", "stacked", "count"])
def test_one_bit_is_seen_wherever_it_is(name):
    before = digests(ARRAYS)
    bits = 8 * ARRAYS[name].nbytes
    for bit in np.random.default_rng(2).choice(bits, min(bits, 40), replace=False):
        assert changed(ARRAYS | {name: flip(ARRAYS[name], bit)}, before) == [name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda x: x[::-1],
        lambda x: np.roll(x, 1, axis=1),
        lambda x: np.where(np.arange(8)[:, None] == 3, 0, x),
        lambda x: x * -1,
        lambda x: x[[1, 0, 2, 3, 4, 5, 6, 7]],
        np.zeros_like,
    ],
)
def test_what_is_moved_or_zeroed_is_seen(damage):
    before = digests(ARRAYS)
    x = damage(ARRAYS["matrix"]).astype(np.float32)
    assert changed(ARRAYS | {"matrix": x}, before) == ["matrix"]


def test_nan_and_the_sign_of_zero_are_bits_like_others():
    before = digests({"x": np.array([0.0, np.nan], np.float32)})
    assert changed({"x": np.array([0.0, np.nan], np.float32)}, before) == []
    assert changed({"x": np.array([-0.0, np.nan], np.float32)}, before) == ["x"]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_the_mesh_does_not_matter(sizes):
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        for spec in (Spec(), Spec("fsdp", "tensor"), Spec("data"), Spec(None, ("fsdp", "tensor"))):
            x = jax.device_put(ARRAYS["matrix"], NamedSharding(mesh, spec))
            assert changed({"x": x}, digests({"x": ARRAYS["matrix"]})) == []
