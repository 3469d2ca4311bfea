# SPDX-License-Identifier: Apache-2.0
"""One token from logits: restricted as asked, distributed as asked, and nothing that may not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.distributed.mesh import make_mesh
from jaxvl.rl.sampling import SamplingParams, categorical, restrict, sample_token, uniforms

LAST = np.float32(1 - 2**-24)  # the largest float32 below 1


def plain_restrict(logits, top_k, top_p):
    """Which tokens stay, by the book: sort, keep k, then keep while the mass before is below p."""
    order = np.argsort(-logits, kind="stable")
    if top_k:
        order = order[:top_k]
    probs = np.exp(logits[order] - logits[order].max())
    probs /= probs.sum()
    kept = np.zeros(len(logits), bool)
    kept[order[(np.cumsum(probs) - probs) < top_p]] = True
    return kept


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 1e-9])
@pytest.mark.parametrize("top_k", [0, 1, 7, 40, 1000])
def test_restrict_against_numpy(top_k, top_p):
    logits = np.random.default_rng(top_k).normal(0, 2, (3, 2, 40)).astype(np.float32)
    got = np.asarray(restrict(jnp.asarray(logits), top_k, top_p))
    for at in np.ndindex(3, 2):
        kept = plain_restrict(logits[at].astype(np.float64), top_k, top_p)
        np.testing.assert_array_equal(got[at] > -np.inf, kept)
        np.testing.assert_array_equal(got[at][kept], logits[at][kept])


def test_top_p_after_forbidden_tokens():
    """A token of no mass is not part of the set, nor does it count among the best."""
    logits = jnp.array([[[-jnp.inf, 2.0, 1.0, 0.0]]])
    kept = np.asarray(restrict(logits, 2, 0.9))[0, 0] > -np.inf
    np.testing.assert_array_equal(kept, [False, True, True, False])


def drawn(logits, uniform):
    """Tokens from softmax(logits) [V], one for every number."""
    mass = np.exp(logits - logits.max())
    shape = (1, len(uniform), len(mass))
    tokens = categorical(jnp.broadcast_to(mass, shape), jnp.asarray(uniform, jnp.float32)[None])
    return np.asarray(tokens)[0]


def test_quantiles():
    """Uniforms spread evenly give every token its share, to within one draw."""
    logits = np.random.default_rng(0).normal(0, 1.5, 50).astype(np.float32)
    n = 20_000
    uniform = ((np.arange(n) + 0.5) / n).astype(np.float32)
    tokens = drawn(logits, uniform)
    share = np.exp(logits.astype(np.float64))
    share *= n / share.sum()
    counts = np.bincount(tokens, minlength=50)
    assert (np.diff(tokens) >= 0).all()  # the inverse of the cumulative distribution
    np.testing.assert_allclose(counts, share, atol=1.1)  # 0.1: cumulative sums in float32


@pytest.mark.parametrize("vocab", [6, 151_936])
def test_tokens_without_mass_are_never_drawn(vocab):
    """Not at either end of [0, 1), nor by the rounding of a long cumulative sum."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, vocab).astype(np.float32)
    logits[::2] = -np.inf  # the first token is among them,
    logits[-vocab // 3 :] = -np.inf  # and the last
    uniform = np.concatenate([[0.0, LAST], rng.random(30)]).astype(np.float32)
    tokens = drawn(logits, uniform)
    assert (logits[tokens] > -np.inf).all()
    alive = np.flatnonzero(logits > -np.inf)
    assert tokens[0] == alive[0]
    assert tokens[1] >= alive[len(alive) // 2]


def test_rounding_of_the_cumulative_sum_draws_no_token_without_mass():
    """A parallel sum may rise at a token that adds nothing; uniforms that fall into such a rise."""
    logits = np.random.default_rng(0).normal(0, 3, 20_000).astype(np.float32)
    logits[::2] = -np.inf
    weights = np.exp(logits - logits.max())
    mass = np.asarray(jnp.cumsum(weights))
    before = np.maximum.accumulate(mass)[:-1]
    risen = np.flatnonzero((weights[1:] == 0) & (mass[1:] > before))
    uniform = before[risen] / mass.max()
    naive = (mass > uniform[:, None] * mass.max()).argmax(-1)
    if not (weights[naive] == 0).any():
        pytest.skip("this platform's sums do not rise")
    tokens = drawn(logits, uniform)
    assert (weights[tokens] > 0).all()


def test_a_token_that_holds_all_the_mass():
    logits = np.full(9, -200.0, np.float32)  # exp(-250) is 0 in float32
    logits[4] = 50.0
    np.testing.assert_array_equal(drawn(logits, [0.0, LAST]), [4, 4])


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def picks(logits, how, count, step=0, seed=0):
    """`count` choices for the same logits by the keys of as many completions."""
    prompt, completions = jnp.zeros(1, jnp.int32), jnp.arange(count)[None]
    uniform = uniforms(jax.random.key(seed), prompt, completions, step + 1)[..., step]
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (1, count, len(logits)))
    tokens, logps = sample_token(logits, uniform, how)
    return np.asarray(tokens)[0], np.asarray(logps)[0]


def how(**settings):
    return SamplingParams(completions=1, max_new_tokens=1, stop_ids=(), pad_id=0, **settings)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_choices_follow_the_distribution(temperature):
    """Chi-square over 12 tokens: 11 degrees of freedom exceed 37 one time in 10,000."""
    logits = np.random.default_rng(3).normal(0, 1, 12)
    n = 10_000
    tokens, logps = picks(logits, how(temperature=temperature), n)
    probs = np.exp(logits / temperature)
    probs /= probs.sum()
    counts = np.bincount(tokens, minlength=12)
    assert ((counts - n * probs) ** 2 / (n * probs)).sum() < 37
    np.testing.assert_allclose(logps, np.log(probs)[tokens], atol=1e-5)


def test_draws_of_completions_and_steps_are_independent():
    """Pairs of draws over 4 equal tokens: chi-square of 16 cells, 15 degrees: 44 is 1 in 10,000."""
    n = 8_000
    a, _ = picks(np.zeros(4), how(), n, step=0)
    b, _ = picks(np.zeros(4), how(), n, step=1)
    for pairs in (a * 4 + b, a[:-1] * 4 + a[1:]):
        counts = np.bincount(pairs, minlength=16)
        assert ((counts - len(pairs) / 16) ** 2 / (len(pairs) / 16)).sum() < 44


def test_numbers_differ_by_prompt_completion_token_and_seed():
    ids = jnp.arange(3)
    completions = ids[:, None] * 0 + jnp.arange(4)
    numbers = np.stack([uniforms(jax.random.key(s), ids, completions, 5) for s in (0, 1)])
    assert numbers.shape == (2, 3, 4, 5)
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.min() >= 0 and numbers.max() < 1


def test_a_number_depends_on_what_it_is_for_and_nothing_else():
    """Not on what else is asked for, nor on the order."""
    key = jax.random.key(7)
    few = uniforms(key, jnp.array([5]), jnp.array([[2, 9]]), 3)
    many = uniforms(key, jnp.array([1, 5]), jnp.array([[0, 1, 2], [9, 4, 2]]), 6)
    np.testing.assert_array_equal(few[0, 0], many[1, 2, :3])
    np.testing.assert_array_equal(few[0, 1], many[1, 0, :3])


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_forbidden_tokens_are_never_chosen_though_they_hold_the_mass(temperature):
    logits = np.zeros(40)
    logits[[3, 17]] = 60.0
    settings = how(never_ids=(3, 17), temperature=temperature)
    tokens, logps = picks(logits, settings, 2_000)
    assert not set(tokens) & {3, 17}
    # The log-probability is the whole policy's, which the learner computes: nearly nothing.
    expected = -60.0 / (temperature or 1.0) - np.log(2)
    np.testing.assert_allclose(logps, expected, atol=2e-3)


def test_restricted_choices():
    logits = np.log(np.arange(1, 21))
    tokens, logps = picks(logits, how(top_k=5), 2_000)
    assert set(tokens) == {15, 16, 17, 18, 19}
    np.testing.assert_allclose(logps, np.log((tokens + 1) / 210), atol=1e-5)
    tokens, _ = picks(logits, how(top_p=0.25), 2_000)  # (20 + 19 + 18) / 210 = 0.27
    assert set(tokens) == {17, 18, 19}


def test_greedy_takes_the_best():
    logits = np.random.default_rng(0).normal(size=30)
    tokens, logps = picks(logits, how(temperature=0.0), 3)
    assert set(tokens) == {logits.argmax()}
    np.testing.assert_allclose(logps, logits.max() - np.log(np.exp(logits).sum()), atol=1e-5)
