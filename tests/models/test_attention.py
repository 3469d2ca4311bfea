# SPDX-License-Identifier: Apache-2.0
"""Tree attention against one dense masked softmax, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.mesh import ROWS, make_mesh
from jaxvl.models.attention.reference import (
    masked_attention,
    tree_attention,
)

R, T, C, N, K, H = 2, 5, 4, 4, 2, 8
LENGTHS = np.array([5, 3])  # the second prompt is padded
TOLERANCE = 1e-5  # two float32 softmaxes summed in another order, values near 1


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def qkv(g, seed=0):
    rng = np.random.default_rng(seed)
    S = T + g * C
    shapes = ((R, S, N, H), (R, S, K, H), (R, S, K, H))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def tree_mask(g):
    """[R, S, S] from the definition, one pair of tokens at a time."""
    S = T + g * C
    mask = np.zeros((R, S, S), bool)
    for row in range(R):
        for query in range(S):
            for key in range(query + 1):
                if key < T:
                    mask[row, query, key] = key < LENGTHS[row]
                else:
                    mask[row, query, key] = (query - T) // C == (key - T) // C
    return mask


def dense(q, k, v, mask):
    """Softmax attention with the kv heads repeated, masked scores at minus infinity."""
    k, v = (jnp.repeat(x, N // K, axis=2) for x in (k, v))
    scores = jnp.einsum("rqnh,rsnh->rnqs", q, k) / np.sqrt(H)
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    return jnp.einsum("rnqs,rsnh->rqnh", jax.nn.softmax(scores, axis=-1), v)


def real(g):
    """[R, S] true where a token is real: the prompt's padding may come out as anything."""
    return np.concatenate([np.arange(T) < LENGTHS[:, None], np.ones((R, g * C), bool)], axis=1)


def split(x, *axes):
    """x as a model has it: rows and heads (axis 2, or what is said) belong to axes of the mesh."""
    return reshard(x, P(ROWS, *(axes or (None, "tensor", None))))


def tree(g):
    mask_RT = jnp.arange(T) < LENGTHS[:, None]
    return lambda q, k, v: tree_attention(split(q), split(k), split(v), mask_RT, g)


@pytest.mark.parametrize("g", [0, 1, 3])
def test_tree_is_dense_attention_under_the_tree_mask(g):
    q, k, v = qkv(g)
    weight = np.random.default_rng(1).normal(size=q.shape) * real(g)[..., None, None]

    def loss(attend):
        def run(q, k, v):
            out = attend(q, k, v)
            return jnp.where(weight != 0, out * weight, 0.0).sum(), out

        both = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))
        return jax.device_get(both(q, k, v))

    (_, ours), grads = loss(tree(g))
    (_, expected), expected_grads = loss(lambda *x: dense(*x, tree_mask(g)))
    np.testing.assert_allclose(ours[real(g)], expected[real(g)], atol=TOLERANCE)
    for ours, expected in zip(grads, expected_grads, strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE * 10)


def test_who_is_seen():
    """The derivative of each query's output by each value is nonzero just where the mask is."""
    g = 2
    q, k, v = qkv(g)
    seen = np.abs(
        jax.device_get(jax.jit(jax.jacrev(tree(g), argnums=2))(q, k, v))
    )  # [R, S, N, H, R, S, K, H]
    seen = seen.sum(axis=(2, 3, 6, 7))  # [R, query, R, key]
    rows = np.arange(R)
    np.testing.assert_array_equal((seen[rows, :, rows] > 0)[real(g)], tree_mask(g)[real(g)])
    assert seen[0, :, 1].max() == 0 and seen[1, :, 0].max() == 0


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_scores_far_from_zero_do_not_overflow(scale):
    """One key alone may hold the maximum, by a lot."""
    q, k, v = qkv(1)
    k = k.at[:, T:].add(scale * q.mean(axis=(1, 2))[:, None, None])

    @jax.jit
    def run(q, k, v):
        return tree(1)(q, k, v), jax.grad(lambda *x: tree(1)(*x).sum(), argnums=(0, 1, 2))(q, k, v)

    out, grads = jax.device_get(run(q, k, v))
    assert all(np.isfinite(grad).all() for grad in grads)
    expected = jax.jit(dense)(q, k, v, tree_mask(1))
    np.testing.assert_allclose(out[:, T:], expected[:, T:], atol=1e-3)


def test_a_query_with_nothing_to_see_is_finite_and_has_finite_gradients():
    q, k, v = qkv(0)
    mask = jnp.zeros((R, T, T), bool)

    def total(*qkv):
        return masked_attention(*map(split, qkv), mask).sum()

    run = jax.value_and_grad(total, argnums=(0, 1, 2))
    loss, grads = jax.jit(run)(q, k, v)
    assert np.isfinite(loss) and all(np.isfinite(grad).all() for grad in grads)
