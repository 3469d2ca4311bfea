# SPDX-License-Identifier: Apache-2.0
"""One token from logits: restricted as asked, distributed as asked, and nothing that may not be;
on shards of the vocabulary as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.mesh import ROWS, make_mesh
from jaxvl.rl import sampling
from jaxvl.rl.sampling import BLOCK, SamplingParams, seeds

TENSOR = P(ROWS, None, "tensor")
sample_token = jax.jit(sampling.sample_token, static_argnums=2)


@functools.partial(jax.jit, static_argnums=(1, 2))
def restrict(logits, top_k, top_p):
    """`sampling.restrict` on the shards of the mesh in force."""
    local = functools.partial(sampling.restrict, top_k=top_k, top_p=top_p)
    kept = jax.shard_map(local, in_specs=TENSOR, out_specs=TENSOR)(reshard(logits, TENSOR))
    return reshard(kept, P(ROWS, None, None))


def sharded(tensor: int):
    """A mesh over so many devices, all for the vocabulary."""
    return jax.set_mesh(make_mesh(tensor=tensor, devices=jax.devices()[:tensor]))


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


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


def long_logits(kind: str, rows: int, vocab: int) -> np.ndarray:
    """Float32 logits [1, rows, vocab] of a kind that selection must not stumble over."""
    rng = np.random.default_rng(len(kind))
    logits = rng.normal(0, 3, (1, rows, vocab)).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "ascending":  # the best are all in one block, the last and not a whole one
        logits = np.sort(logits, axis=-1)
    elif kind == "one of a block":
        logits[..., ::BLOCK] += 20
    elif kind == "equal":
        logits[:] = -1.5
    elif kind == "forbidden":  # fewer may be chosen than are asked for
        logits[..., 3:] = -np.inf
    elif kind == "signs of zero":
        logits = np.where(logits > 0, np.float32(0), np.float32(-0.0))
    return logits


KINDS = ("normal", "ties", "ascending", "one of a block", "equal", "forbidden", "signs of zero")


@pytest.mark.parametrize("tensor", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_are_found_without_a_sort_of_the_whole(kind, tensor):
    """Against numpy: ties at the border stay, wherever blocks and shards end."""
    logits = long_logits(kind, 3, 6004)
    with sharded(tensor):
        for top_k in (1, 5, 11, 50):
            kept = np.asarray(restrict(logits, top_k, 1.0)) > -np.inf
            border = np.sort(logits, axis=-1)[..., -top_k, None]
            np.testing.assert_array_equal(kept, (logits >= border) & (logits > -np.inf))


@pytest.mark.parametrize("tensor", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_nucleus_is_found_without_a_sort(kind, tensor):
    """Tokens stay up to the first value before which `top_p` of the mass lies; to 1e-5 of it."""
    logits = long_logits(kind, 3, 6004)
    mass = np.exp(logits.astype(np.float64))
    mass /= mass.sum(-1, keepdims=True)
    with sharded(tensor):
        for top_p in (0.1, 0.5, 0.9, 0.999):
            kept = np.asarray(restrict(logits, 0, top_p)) > -np.inf
            for row, own, stays in zip(logits[0], mass[0], kept[0], strict=True):
                border = row[stays].min()
                assert (stays == (row >= border) & (row > -np.inf)).all()
                assert own[row > border].sum() < top_p + 1e-5
                assert own[stays].sum() >= top_p - 1e-5


@pytest.mark.parametrize("settings", [{}, {"top_k": 7}, {"top_p": 0.8}, {"temperature": 0.0}])
def test_shards_draw_the_same(settings):
    """A token depends on its seed and its logits, not on where the vocabulary is cut."""
    logits = np.random.default_rng(0).normal(0, 2, (1, 64, 4096)).astype(np.float32)
    logits[0, :4] = 0.0  # nothing but ties
    seed = np.random.default_rng(1).integers(0, 2**32, (1, 64), np.uint32)
    found = []
    for tensor in (1, 2, 8):
        with sharded(tensor):
            found.append(
                jax.device_get(sample_token(logits, seed, how(never_ids=(2, 9), **settings)))
            )
    for tokens, logps in found[1:]:
        np.testing.assert_array_equal(tokens, found[0][0])
        np.testing.assert_allclose(logps, found[0][1], atol=2e-6)  # sums of two parts


def picks(logits, how, count, step=0, seed=0):
    """`count` choices for the same logits by the keys of as many completions."""
    prompt, completions = jnp.zeros((1, count), jnp.int32), jnp.arange(count)[None]
    seed = seeds(jax.random.key(seed), prompt, completions, step + 1)[..., step]
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (1, count, len(logits)))
    tokens, logps = sample_token(logits, seed, how)
    return np.asarray(tokens)[0], np.asarray(logps)[0]


def how(**settings):
    return SamplingParams(completions=1, max_new_tokens=1, stop_ids=(), pad_id=0, **settings)


def chi_square(tokens, probs) -> float:
    """Over degrees of freedom, as a normal deviate (Wilson and Hilferty)."""
    n, alive = len(tokens), probs > 0
    counts = np.bincount(tokens, minlength=len(probs))
    assert counts[~alive].sum() == 0
    value = ((counts - n * probs)[alive] ** 2 / (n * probs[alive])).sum()
    degrees = alive.sum() - 1
    spread = 2 / (9 * degrees)
    return ((value / degrees) ** (1 / 3) - 1 + spread) / spread**0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5},
        {"temperature": 1.0},
        {"temperature": 1.7},
        {"top_k": 10},
        {"top_p": 0.8},
        {"top_k": 30, "top_p": 0.9, "temperature": 0.8},
        {"never_ids": (0, 7, 39)},
    ],
    ids=str,
)
@pytest.mark.parametrize("ties", [False, True])
def test_choices_follow_the_distribution(settings, ties):
    """Chi-square, which exceeds 4 deviations one time in 30,000."""
    logits = np.random.default_rng(3).normal(0, 1, 40)
    logits = (np.round(2 * logits) / 2 if ties else logits).astype(np.float32)
    n, how_ = 20_000, how(**settings)
    tokens, logps = picks(logits, how_, n)
    scaled = logits.astype(np.float64) / how_.temperature
    whole = np.exp(scaled) / np.exp(scaled).sum()
    np.testing.assert_allclose(logps, np.log(whole)[tokens], atol=1e-5)
    scaled[list(how_.never_ids)] = -np.inf
    scaled = np.asarray(restrict(scaled.astype(np.float32)[None, None], how_.top_k, how_.top_p))
    assert chi_square(tokens, np.exp(scaled[0, 0]) / np.exp(scaled).sum()) < 4


@pytest.mark.parametrize("first", [0, 2**17])
def test_unlikely_tokens_have_their_share(first):
    """As many of 2 million noises are above 12 as should be, 0.000006: tokens of that mass win."""
    seed = jax.random.bits(jax.random.key(1), (1, 1))
    noise = np.asarray(sampling.gumbel(seed, jnp.arange(first, first + 2**21, dtype=jnp.uint32)))
    for above in (-1.0, 0.0, 3.0, 8.0, 12.0):
        share = -np.expm1(-np.exp(-above))
        expected, found = share * noise.size, (noise > above).sum()
        assert abs(found - expected) < 4.5 * np.sqrt(expected * (1 - share)) + 1
    assert np.isfinite(noise).all()


def test_noises_of_neighbours_know_nothing_of_each_other():
    """Correlations of 2^20 pairs: of tokens beside each other or 128 apart, of seeds that differ in
    one bit or follow each other, by a step of the hash too. A thousandth is one deviation."""
    start = np.uint32(12345)
    step = np.uint32(0x9E3779B9)
    others = [start ^ np.uint32(1 << bit) for bit in (0, 7, 16, 31)]
    with np.errstate(over="ignore"):
        others += [start + np.uint32(1), start + step, start - step]
    seed = jnp.array([[start, *others]])
    noise = np.asarray(sampling.gumbel(seed, jnp.arange(2**20, dtype=jnp.uint32)))[0]
    pairs = [(noise[0], other) for other in noise[1:]]
    pairs += [(noise[0][:-lag], noise[0][lag:]) for lag in (1, 2, 8, 128, 1187)]
    pairs += [(noise[0][1:], noise[6][:-1]), (noise[0][:-1], noise[7][1:])]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.005
        assert abs(np.corrcoef(np.exp(-one), np.exp(-other))[0, 1]) < 0.005


def test_draws_of_completions_and_steps_are_independent():
    """Pairs of draws over 4 equal tokens: chi-square of 16 cells, 15 degrees: 44 is 1 in 10,000."""
    n = 8_000
    a, _ = picks(np.zeros(4), how(), n, step=0)
    b, _ = picks(np.zeros(4), how(), n, step=1)
    for pairs in (a * 4 + b, a[:-1] * 4 + a[1:]):
        counts = np.bincount(pairs, minlength=16)
        assert ((counts - len(pairs) / 16) ** 2 / (len(pairs) / 16)).sum() < 44


def test_seeds_differ_by_prompt_completion_token_and_seed():
    ids, completions = jnp.indices((3, 4))
    numbers = np.stack([seeds(jax.random.key(s), ids, completions, 5) for s in (0, 1)])
    assert numbers.shape == (2, 3, 4, 5) and numbers.dtype == np.uint32
    assert len(np.unique(numbers)) == numbers.size


def test_a_seed_depends_on_what_it_is_for_and_nothing_else():
    """Not on what else is asked for, nor on the order."""
    key = jax.random.key(7)
    few = seeds(key, jnp.array([[5, 5]]), jnp.array([[2, 9]]), 3)
    many = seeds(key, jnp.array([[1, 1, 1], [5, 5, 5]]), jnp.array([[0, 1, 2], [9, 4, 2]]), 6)
    np.testing.assert_array_equal(few[0, 0], many[1, 2, :3])
    np.testing.assert_array_equal(few[0, 1], many[1, 0, :3])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_row_with_a_key_of_its_own_has_the_seeds_of_that_key(devices):
    ids, completions = np.array([[0] * 3, [7] * 3]), np.array([[0, 1, 2], [4, 5, 6]])
    expected = [
        seeds(jax.random.key(seed), jnp.array(ids[i, None]), jnp.array(completions[i, None]), 5)[0]
        for i, seed in enumerate((3, 0))
    ]

    @jax.jit
    def of_rows(keys, ids, completions):
        return seeds(keys, reshard(ids, P(ROWS, None)), reshard(completions, P(ROWS, None)), 5)

    with jax.set_mesh(make_mesh(data=devices, devices=jax.devices()[:devices])):
        keys = jnp.stack([jax.random.key(seed) for seed in (3, 0)])
        found = of_rows(keys, ids, completions)
    np.testing.assert_array_equal(found, expected)


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
