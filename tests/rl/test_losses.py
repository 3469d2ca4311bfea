# SPDX-License-Identifier: Apache-2.0
"""Losses against plain numpy in float64, one token at a time, and its finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.rl.losses import clipped_objective, grpo_loss, kl_k3, sft_loss

N, C = 4, 5
EXACT = 1e-12  # float64 on both sides
SLOPE = 1e-7  # central differences of step 1e-6 in float64


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(seed=0):
    """Log-probabilities whose ratios fall on both sides of the clip; sequence 2 has no token."""
    rng = np.random.default_rng(seed)
    logps = rng.normal(-2, 1, (N, C))
    old = logps + rng.normal(0, 0.4, (N, C))
    old[1, :2] += 0.4  # A < 0 and the ratio low: clipped
    ref = logps + rng.normal(0, 0.5, (N, C))
    advantages = np.array([1.5, -0.7, 2.0, -1.0])
    mask = np.arange(C) < np.array([5, 3, 0, 1])[:, None]
    return logps, old, ref, advantages, mask


def plain_grpo(logps, old, ref, advantages, mask, low, high, beta, sequences=N):
    """The docstring's formula in a loop."""
    total = 0.0
    for n in range(len(logps)):
        tokens = [c for c in range(logps.shape[1]) if mask[n, c]]
        for c in tokens:
            ratio = np.exp(logps[n, c] - old[n, c])
            clipped = min(max(ratio, 1 - low), 1 + high)
            d = ref[n, c] - logps[n, c]
            term = -min(ratio * advantages[n], clipped * advantages[n])
            term += beta * (np.exp(d) - d - 1)
            total += term / len(tokens) / sequences
    return total


def slopes(function, x, step=1e-6):
    """Central differences of a scalar function by every entry of x."""
    grad = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        grad[at] = (function(up) - function(down)) / (2 * step)
    return grad


@pytest.mark.parametrize("high", [None, 0.28])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_grpo_value_and_gradient(high, beta):
    logps, old, ref, advantages, mask = arrays()

    def ours(logps):
        return grpo_loss(
            logps, old, ref, advantages, mask, epsilon=0.2, epsilon_high=high, beta=beta
        )[0]

    def plain(logps):
        return plain_grpo(logps, old, ref, advantages, mask, 0.2, high or 0.2, beta)

    value, grad = jax.value_and_grad(ours)(jnp.asarray(logps))
    np.testing.assert_allclose(value, plain(logps), rtol=EXACT)
    np.testing.assert_allclose(grad, slopes(plain, logps), atol=SLOPE)
    assert (np.asarray(grad)[~mask] == 0).all()


def test_epsilon_high_widens_the_upper_side_alone():
    """Ratio 1.25: clipped at 1.2, free at 1.28; ratio 0.75 with A < 0 is clipped by both."""
    old, mask = np.zeros((2, 1)), np.ones((2, 1), bool)
    logps, advantages = np.log([[1.25], [0.75]]), np.array([1.0, -1.0])

    def grads(high):
        return np.asarray(
            jax.grad(lambda x: grpo_loss(x, old, None, advantages, mask, epsilon_high=high)[0])(
                logps
            )
        )

    np.testing.assert_allclose(grads(None), [[0.0], [0.0]])
    np.testing.assert_allclose(grads(0.28), [[-1.25 / 2], [0.0]], rtol=EXACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope", "flags"),
    [
        # A > 0: gain is cut above 1.2 and never below; A < 0: cut below 0.8 and never above.
        (1.5, 2.0, 1.2 * 2.0, 0.0, (False, True)),
        (1.1, 2.0, 1.1 * 2.0, 1.1 * 2.0, (False, False)),
        (0.5, 2.0, 0.5 * 2.0, 0.5 * 2.0, (False, False)),
        (0.5, -2.0, 0.8 * -2.0, 0.0, (True, False)),
        (0.9, -2.0, 0.9 * -2.0, 0.9 * -2.0, (False, False)),
        (1.5, -2.0, 1.5 * -2.0, 1.5 * -2.0, (False, False)),
        (1.5, 0.0, 0.0, 0.0, (False, False)),
    ],
)
def test_clip(ratio, advantage, objective, slope, flags):
    def run(logps):
        value, low, high = clipped_objective(
            logps, jnp.zeros((1, 1)), jnp.array([advantage]), 0.2, 0.2
        )
        return value[0, 0], (bool(low[0, 0]), bool(high[0, 0]))

    (value, found), grad = jax.value_and_grad(run, has_aux=True)(jnp.log(jnp.array([[ratio]])))
    np.testing.assert_allclose(value, objective, rtol=EXACT)
    np.testing.assert_allclose(grad, [[slope]], atol=EXACT)
    assert found == flags


def test_clip_ratios_are_means_as_the_loss_is():
    logps, old, _, advantages, mask = arrays()
    _, stats = grpo_loss(logps, old, None, advantages, mask)
    ratio = np.exp(logps - old)
    low = (ratio < 0.8) & (advantages[:, None] < 0)
    high = (ratio > 1.2) & (advantages[:, None] > 0)
    weight = mask / np.maximum(mask.sum(1, keepdims=True), 1) / N
    expected = {"low": low, "high": high, "region": low | high}
    assert set(stats) == {f"clip_ratio/{name}_mean" for name in expected}
    for name, hit in expected.items():
        assert 0 < (hit * weight).sum() < 1
        np.testing.assert_allclose(stats[f"clip_ratio/{name}_mean"], (hit * weight).sum())


def test_kl_k3_is_its_formula_and_never_negative():
    d = np.array([-3.0, -0.1, 0.0, 1e-9, 0.2, 4.0])
    got = np.asarray(kl_k3(jnp.zeros(6), jnp.asarray(d)))
    assert (got >= 0).all() and got[2] == 0
    np.testing.assert_allclose(got[[0, 1, 4, 5]], np.exp(d)[[0, 1, 4, 5]] - d[[0, 1, 4, 5]] - 1)


def test_kl_k3_is_unbiased_under_the_policy():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    expected = (p * np.log(p / q)).sum()
    np.testing.assert_allclose((p * np.asarray(kl_k3(np.log(p), np.log(q)))).sum(), expected)


def test_kl_is_reported_before_beta():
    logps, old, ref, advantages, mask = arrays()
    without = grpo_loss(logps, old, None, advantages, mask)[0]
    loss, stats = grpo_loss(logps, old, ref, advantages, mask, beta=0.3)
    assert stats["kl"] > 0
    np.testing.assert_allclose(loss, without + 0.3 * stats["kl"], rtol=EXACT)


def test_a_sequence_without_tokens_counts_in_the_mean():
    logps, old, ref, advantages, mask = arrays()
    kept = [0, 1, 3]
    all_four = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)[0]
    three = grpo_loss(logps[kept], old[kept], ref[kept], advantages[kept], mask[kept], beta=0.1)[0]
    np.testing.assert_allclose(all_four, three * 3 / 4, rtol=EXACT)


@pytest.mark.parametrize("junk", [1e4, -1e4, np.inf, np.nan])
@pytest.mark.parametrize("where", range(3), ids=["logps", "old", "ref"])
def test_padding_may_hold_anything(where, junk):
    logps, old, ref, advantages, mask = arrays()

    def run(logps, old, ref):
        return grpo_loss(logps, old, ref, advantages, mask, beta=0.1)[0]

    clean = jax.value_and_grad(run)(logps, old, ref)
    inputs = [logps, old, ref]
    inputs[where] = np.where(mask, inputs[where], junk)
    value, grad = jax.value_and_grad(run)(*inputs)
    np.testing.assert_array_equal(value, clean[0])
    np.testing.assert_array_equal(grad, clean[1])


def test_parts_of_a_batch_add_up_to_the_whole():
    logps, old, ref, advantages, mask = arrays()
    whole, whole_stats = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)
    parts = [
        grpo_loss(*(x[i] for x in (logps, old, ref, advantages, mask)), beta=0.1, sequences=N)
        for i in (slice(0, 1), slice(1, 4))
    ]
    np.testing.assert_allclose(sum(loss for loss, _ in parts), whole, rtol=EXACT)
    for name, value in whole_stats.items():
        np.testing.assert_allclose(sum(s[name] for _, s in parts), value, rtol=EXACT)


def test_leading_axes_do_not_matter():
    """[R, g, C] is [R * g, C]."""
    logps, old, ref, advantages, mask = arrays()
    flat = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)[0]
    rows = [x.reshape(2, 2, *x.shape[1:]) for x in (logps, old, ref, advantages, mask)]
    np.testing.assert_allclose(grpo_loss(*rows, beta=0.1)[0], flat, rtol=EXACT)


def test_sft_is_the_mean_over_tokens():
    logps, *_, mask = arrays()
    np.testing.assert_allclose(sft_loss(logps, mask), -logps[mask].mean(), rtol=EXACT)
    np.testing.assert_allclose(sft_loss(logps, mask, tokens=20), -logps[mask].sum() / 20)
    grad = jax.grad(sft_loss)(jnp.asarray(logps), mask)
    np.testing.assert_allclose(grad, np.where(mask, -1 / mask.sum(), 0), rtol=EXACT)
    assert sft_loss(logps, np.zeros_like(mask)) == 0
