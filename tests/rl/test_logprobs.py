# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and entropies from hidden states, in chunks."""

import functools
import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from jaxvl.distributed.mesh import put_rows
from jaxvl.models.qwen_vl import QwenVL
from jaxvl.rl.logprobs import chunk_size, pick, token_logprobs
from tests.rl.rows import assert_trees_close, grpo_step, policy, random_batch

R, G, C = 2, 3, 7
EXACT = 1e-5  # float32 sums over 320 tokens, values near 6


@pytest.fixture(scope="module")
def inputs(vlm):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(R, G, C, vlm.config.text.dim)).astype(np.float32)
    tokens = rng.integers(0, vlm.config.text.vocab, (R, G, C)).astype(np.int32)
    return hidden, tokens


def run(vlm, inputs, chunk, temperature=1.0):
    @jax.jit
    def both(params, hidden, tokens):
        model: QwenVL = nnx.merge(vlm.graphdef, params)
        return token_logprobs(model.text, hidden, tokens, temperature, chunk)

    with jax.set_mesh(vlm.mesh):
        return jax.device_get(both(vlm.params, *put_rows(inputs, vlm.mesh)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [0, 1, 4, G * C, 1000])
def test_against_numpy(vlm, inputs, chunk, temperature):
    hidden, tokens = inputs
    logits = hidden.astype(np.float64) @ np.asarray(vlm.params["text"]["embed"]["w"]).T
    logits /= temperature
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    logps, entropy = run(vlm, inputs, chunk, temperature)
    assert logps.shape == entropy.shape == tokens.shape
    assert logps.dtype == entropy.dtype == np.float32
    picked = np.take_along_axis(expected, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(logps, picked, atol=EXACT)
    np.testing.assert_allclose(entropy, -(np.exp(expected) * expected).sum(-1), atol=EXACT)


@pytest.mark.parametrize(
    ("asked", "rows", "chunk"),
    [
        (0, 1, 1024),
        (0, 2, 512),
        (0, 3, 342),
        (0, 4, 256),
        (0, 64, 256),
        (7, 1, 7),
        (4096, 64, 4096),
    ],
)
def test_a_chunk_holds_enough_tokens_of_a_device(asked, rows, chunk):
    assert chunk_size(asked, rows) == chunk


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4, 1e8])
def test_logits_of_any_size(scale):
    """Against float64; what float32 logits resolve is what log-probabilities do."""
    rng = np.random.default_rng(1)
    logits = (scale * rng.normal(size=(2, 3, 50))).astype(np.float32)
    tokens = rng.integers(0, 50, (2, 3))
    exact = logits.astype(np.float64)
    exact = exact - exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    logps, entropy = pick(logits, tokens)
    picked = np.take_along_axis(exact, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(logps, picked, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(entropy, -(np.exp(exact) * exact).sum(-1), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_a_log_softmax():
    rng = np.random.default_rng(2)
    logits, tokens = rng.normal(size=(2, 3, 50)).astype(np.float32), rng.integers(0, 50, (2, 3))
    grad = jax.grad(lambda x: pick(x, tokens)[0].sum())(logits)
    expected = np.eye(50)[tokens] - np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_extremes_are_finite():
    """One token with all the mass: entropy 0, and the others as unlikely as the logits say."""
    logits = np.zeros((1, 2, 8), np.float32)
    logits[..., 3] = 1e4
    logps, entropy = pick(logits, np.array([[3, 0]]))
    np.testing.assert_array_equal(logps, [[0.0, -1e4]])
    np.testing.assert_array_equal(entropy, [[0.0, 0.0]])


def test_entropy_has_no_gradient():
    logits = np.random.default_rng(0).normal(size=(1, 2, 8)).astype(np.float32)
    grad = jax.grad(lambda x: pick(x, np.array([[3, 0]]))[1].sum())(logits)
    np.testing.assert_array_equal(grad, 0.0)


@pytest.fixture(scope="module")
def step(vlm, pictures):
    """(chunk, remat) -> loss, stats, log-probabilities, gradients of the same batch."""
    batch = random_batch(vlm, [pictures[1:2], []], 4)

    @functools.cache
    def run(chunk, remat="products"):
        with jax.set_mesh(vlm.mesh):
            f = grpo_step(policy(vlm, chunk=chunk, remat=remat))
            return jax.device_get(f(vlm.params, put_rows(batch, vlm.mesh)))

    return run


@pytest.mark.parametrize(("chunk", "remat"), [(7, "products"), (1000, "products"), (5, "block")])
def test_chunks_and_checkpointing_do_not_change_gradients(step, chunk, remat):
    expected, found = step(5), step(chunk, remat)
    np.testing.assert_allclose(found[2], expected[2], atol=EXACT)
    # 1e-5: the same products, added in another order
    assert_trees_close(found[3], expected[3], 1e-5)


def largest(jaxpr, vocab):
    """Most numbers in an array of the program, loops included, whose last axis is `vocab`."""
    sizes = [0]
    for eqn in jaxpr.eqns:
        for var in (*eqn.invars, *eqn.outvars):
            shape = getattr(var.aval, "shape", ())
            if vocab in shape and len(shape) > 2:
                sizes.append(int(np.prod(shape)))
        sizes += [largest(sub, vocab) for sub in jaxprs_in_params(eqn.params)]
    return max(sizes)


@pytest.mark.parametrize("chunk", [5, 24])
def test_logits_exist_for_one_chunk_at_a_time(vlm, pictures, chunk):
    """In the whole update with its backward pass; 24 tokens is the whole row, 5 a part of it."""
    batch = random_batch(vlm, [pictures[1:2], []], 4)
    with jax.set_mesh(vlm.mesh):
        f = grpo_step(policy(vlm, chunk=chunk))
        jaxpr = f.trace(vlm.params, put_rows(batch, vlm.mesh)).jaxpr.jaxpr
    rows, vocab = batch.tokens.shape[0], vlm.config.text.vocab
    assert batch.tokens[0].size == 24
    assert largest(jaxpr, vocab) == rows * chunk * vocab


def test_the_backward_pass_sums_no_logits_again(vlm, inputs):
    """It keeps maxima and sums, and goes over its own logits for the gradient alone."""

    def total(hidden, params, tokens):
        model: QwenVL = nnx.merge(vlm.graphdef, params)
        return token_logprobs(model.text, hidden, tokens, 1.0, 4)[0].sum()

    with jax.set_mesh(vlm.mesh):
        hidden, tokens = put_rows(inputs, vlm.mesh)
        gradient = jax.jit(jax.value_and_grad(total))
        text = gradient.lower(hidden, vlm.params, tokens).compile().as_text()
    names = set(re.findall(r'op_name="([^"]*)"', text))
    again = {name for name in names if "rematted_computation" in name}
    assert any("/reduce_max" in name for name in names - again)
    assert again and not [name for name in again if "/reduce_" in name]
