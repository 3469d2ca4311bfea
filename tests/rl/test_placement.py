# SPDX-License-Identifier: Apache-2.0
"""Prompts lie on the devices once: the micro-batches cut out of them are those of the host."""

import jax
import numpy as np
import pytest
from einops import rearrange

from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models.inputs import Prompt, Vision
from jaxvl.rl.placement import Placement, _cut_out

R = 24


def prompts() -> Prompt:
    """Rows that differ in every array."""
    rows = np.arange(R, dtype=np.int32)

    def wide(*shape, dtype=np.int32):
        return (rows.reshape(R, *(1,) * len(shape)) + np.zeros(shape)).astype(dtype)

    vision = Vision(wide(8, 6, dtype=np.uint8), wide(8, 2), wide(8), wide(8), wide(4, 3))
    return Prompt(wide(5), rows, wide(3, 5), rows, wide(5), rows, rows, vision)


CUTS = [(1, 1, 1), (24, 1, 1), (2, 12, 1), (2, 3, 1), (1, 1, 4), (1, 3, 4), (3, 2, 2), (1, 6, 4)]


@pytest.mark.parametrize(("mini", "micro", "shards"), CUTS)
@pytest.mark.parametrize("whole", [False, True])
def test_micro_batches_are_those_of_the_host(mini, micro, shards, whole):
    """Any rows may be dead; what is cut out lies where the host's own micro-batches would."""
    rng, mesh = (
        np.random.default_rng(mini + micro),
        make_mesh(fsdp=shards, devices=jax.devices()[:shards]),
    )
    placement, on_host = Placement(mini, micro, shards), prompts()
    order = placement.order(rng.random(R) < 0.5, whole)
    with jax.set_mesh(mesh):
        put = placement.put(on_host, mesh)
        found = placement.cut_out(put, order, mesh)
        (pieces,) = placement.pieces.cut_out(put, np.arange(R), mesh)

    def cut(x, n):
        return rearrange(x, "(n m R) ... -> n m R ...", n=n, m=mini * micro // n)

    for n in range(mini):
        wanted = put_rows(jax.tree.map(lambda x, n=n: cut(x[order], mini)[n], on_host), mesh, 1)
        for one, other in zip(jax.tree.leaves(found[n]), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, cut(y, 1)[0]), pieces, on_host)
    back = placement.on_host(jax.tree.map(np.asarray, put))
    jax.tree.map(np.testing.assert_array_equal, back, on_host)


@pytest.mark.parametrize(("mini", "micro", "shards"), CUTS)
def test_live_rows_come_first_on_every_shard(mini, micro, shards):
    """Within a mini-batch; each row stays in its mini-batch and on its shard."""
    placement = Placement(mini, micro, shards)
    live = np.random.default_rng(7).random(R) < 0.5
    order = placement.order(live, whole=False)
    cut = {"n": mini, "m": micro, "l": shards}
    homes = rearrange(np.arange(R), "(n m l u) -> n l (m u)", **cut)
    found = rearrange(order, "(n m l u) -> n l (m u)", **cut)
    np.testing.assert_array_equal(np.sort(found, axis=2), homes)
    assert (np.diff(live[found].astype(int), axis=2) <= 0).all()


def test_nothing_is_exchanged_between_devices():
    mesh, placement = make_mesh(fsdp=4, devices=jax.devices()[:4]), Placement(2, 3, 4)
    with jax.set_mesh(mesh):
        put = placement.put(prompts(), mesh)
        order = put_rows(np.zeros((4, 2, 3), np.int32), mesh)
        text = _cut_out.lower(put, order, 3).compile().as_text()
    assert "gather" in text or "dynamic-slice" in text
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in text
