# SPDX-License-Identifier: Apache-2.0
"""Every kernel against the reference, in value and gradient, on the platform that is there.

On a CPU splash is interpreted and cuDNN's calls go through XLA, in float32: what is tried is how
they are called. On a TPU (JAX_PLATFORMS=tpu) and on a GPU (JAX_PLATFORMS=cuda) the kernels run.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import ROWS, make_mesh
from jaxvl.models import attention
from jaxvl.models.attention import reference

H = 16
PLATFORM = jax.default_backend()
DTYPE = jnp.float32 if PLATFORM == "cpu" else jnp.bfloat16
# Float32 softmaxes summed in another order; or bfloat16 with its rounding of 2^-8 at the queries'
# scale, the weights and the output. Relative to the largest number.
TOLERANCE = 1e-5 if PLATFORM == "cpu" else 2e-2
KERNELS = {"cpu": ["splash", "cudnn"], "tpu": ["splash"], "gpu": ["cudnn"]}[PLATFORM]


@pytest.fixture(scope="module", autouse=True)
def precision():
    """Of bfloat16 products no other; of float32 ones the highest, as in all tests."""
    with jax.default_matmul_precision("highest" if DTYPE == jnp.float32 else "default"):
        yield


def kernel(name):
    return importlib.import_module(f"jaxvl.models.attention.{name}")


def rows(mesh, seed, R, S, heads, head_dim):
    rng = np.random.default_rng(seed)
    sharding = NamedSharding(mesh, P(ROWS, None, "tensor", None))
    x = rng.normal(size=(R, S, heads, head_dim))
    return jax.device_put(jnp.asarray(x, DTYPE), sharding)


def compare(mesh, name, function, R, S, N, K, per_row, real_RS, *static, head_dim=H):
    """Output and gradients of q, k and v under a random cotangent on real tokens."""
    q, k, v, g = (rows(mesh, i, R, S, heads, head_dim) for i, heads in enumerate((N, K, K, N)))
    per_row = jax.device_put(per_row, NamedSharding(mesh, P(ROWS, None)))
    real = jax.device_put(real_RS[..., None, None], NamedSharding(mesh, P(ROWS)))

    def run(module):
        def both(q, k, v):
            out, pull = jax.vjp(lambda *x: getattr(module, function)(*x, per_row, *static), q, k, v)
            return jnp.where(real, out, 0), *pull(jnp.where(real, g, 0).astype(out.dtype))

        with jax.set_mesh(mesh):
            return jax.device_get(jax.jit(both)(q, k, v))

    for ours, expected in zip(run(kernel(name)), run(reference), strict=True):
        ours, expected = ours.astype(np.float32), expected.astype(np.float32)
        size = np.abs(expected).max()
        assert size > 0.1
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE * size, rtol=0)


def one():
    return make_mesh(devices=jax.devices()[:1])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("T", "g", "C"),
    [(150, 0, 0), (100, 1, 50), (150, 3, 70), (128, 2, 64)],
    ids=["prompt", "one", "three", "whole blocks"],
)
def test_tree(name, T, g, C):
    lengths = np.array([T, T // 3])
    mask_RT = np.arange(T) < lengths[:, None]
    real = np.concatenate([mask_RT, np.ones((2, g * C), bool)], axis=1)
    compare(one(), name, "tree_attention", 2, T + g * C, 4, 2, mask_RT, real, g)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_of_several_texts(name):
    examples = np.zeros((2, 151), np.int32)
    examples[0, :140] = np.repeat([1, 2, 3], [16, 100, 24])
    compare(one(), name, "row_attention", 2, 151, 4, 2, examples, examples > 0)


@pytest.mark.parametrize("name", KERNELS)
def test_segments(name):
    """A row of images and padding, and a row of padding alone."""
    segments = np.zeros((2, 151), np.int32)
    segments[0, :140] = np.repeat([1, 2, 3], [16, 100, 24])
    real = segments > 0
    compare(one(), name, "segment_attention", 2, 151, 4, 4, segments, real)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("N", "K"), [(12, 2), (16, 8)], ids=["12 of 2", "16 of 8"])
def test_heads_of_published_decoders(name, N, K):
    """Qwen2-VL-2B's and those of a group of two, of 128 numbers each."""
    T, g, C = 90, 2, 20
    mask_RT = np.arange(T) < np.array([[70]])
    real = np.concatenate([mask_RT, np.ones((1, g * C), bool)], axis=1)
    compare(one(), name, "tree_attention", 1, T + g * C, N, K, mask_RT, real, g, head_dim=128)


@pytest.mark.parametrize("name", KERNELS)
def test_heads_of_published_towers(name):
    """16 of 80 numbers, which are no multiple of a TPU's registers."""
    segments = np.repeat([[1, 2, 0]], [64, 50, 16], axis=1).astype(np.int32)
    segment = "segment_attention"
    compare(one(), name, segment, 1, 130, 16, 16, segments, segments > 0, head_dim=80)


@pytest.mark.parametrize("name", KERNELS)
def test_a_row_of_4096_tokens(name):
    """Several of the largest blocks on either side of the border of prompt and completions."""
    T, g, C = 1300, 4, 699
    mask_RT = np.arange(T) < np.array([[1100]])
    real = np.concatenate([mask_RT, np.ones((1, g * C), bool)], axis=1)
    compare(one(), name, "tree_attention", 1, T + g * C, 2, 1, mask_RT, real, g, head_dim=128)


@pytest.mark.skipif(jax.device_count() < 8, reason="eight devices")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("mesh", [(1, 4, 2), (1, 2, 4)], ids=str)
def test_tree_on_a_mesh(name, mesh):
    """Rows and heads lie on their devices; (1, 2, 4) has had its two kv heads repeated."""
    T, g, C, R = 20, 2, 10, 8
    mask_RT = np.arange(T) < np.linspace(1, T, R).astype(int)[:, None]
    real = np.concatenate([mask_RT, np.ones((R, g * C), bool)], axis=1)
    K = max(2, mesh[2])
    compare(make_mesh(*mesh), name, "tree_attention", R, T + g * C, 4, K, mask_RT, real, g)


@pytest.mark.skipif(jax.device_count() < 8, reason="eight devices")
@pytest.mark.parametrize("name", KERNELS)
def test_segments_on_a_mesh(name):
    segments = np.repeat([[0, 1, 2]], 20, axis=1) + np.arange(8)[:, None] % 2
    segments = segments.astype(np.int32)
    compare(
        make_mesh(2, 2, 2), name, "segment_attention", 8, 60, 4, 4, segments, segments == segments
    )


def test_the_tree_mask_of_splash_is_the_definition():
    from jaxvl.models.attention.splash import Tree

    T, C, S = 5, 3, 16  # two completions of 3, and 5 tokens of padding
    mask = Tree(S, T, C)[:, :]
    for query in range(T + 2 * C):
        for key in range(T + 2 * C):
            sees = key <= query and (key < T or (query - T) // C == (key - T) // C)
            assert mask[query, key] == sees, (query, key)
    assert mask.diagonal().all()  # else padding would have a softmax over nothing
    np.testing.assert_array_equal(Tree(S, T, C)[4:9, 2:7], mask[4:9, 2:7])


def test_a_row_that_the_mask_of_splash_cannot_count():
    x = jax.ShapeDtypeStruct((1, 40_000, 1, H), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, 1000), bool)
    with jax.set_mesh(one()), pytest.raises(ValueError, match="completions of less than 16384"):
        jax.eval_shape(lambda *x: kernel("splash").tree_attention(*x, 1), x, x, x, mask)


@pytest.mark.parametrize(
    ("tokens", "block"), [(40, 128), (600, 128), (1000, 512), (1200, 256), (6624, 512)]
)
def test_block_size(tokens, block):
    assert kernel("splash").block_size(tokens) == block


@pytest.mark.parametrize(
    ("platform", "tokens", "head_dim", "dtype", "expected"),
    [
        ("cpu", 2000, 128, "bfloat16", "reference"),
        ("tpu", 2000, 128, "bfloat16", "splash"),
        ("tpu", 2000, 80, "float32", "splash"),
        ("tpu", 255, 128, "bfloat16", "reference"),
        ("nvidia", 2000, 128, "bfloat16", "cudnn"),
        ("nvidia", 2000, 80, "float16", "cudnn"),
        ("nvidia", 2000, 128, "float32", "reference"),
        ("nvidia", 2000, 132, "bfloat16", "reference"),
        ("nvidia", 2000, 256, "bfloat16", "reference"),
        ("gpu", 2000, 128, "bfloat16", "reference"),
    ],
)
def test_which_runs_where(platform, tokens, head_dim, dtype, expected):
    assert attention.choose(platform, tokens, head_dim, dtype) == expected
