# SPDX-License-Identifier: Apache-2.0
"""An update that is not finite changes nothing and is said to be skipped; another is what it would
be without the guard, to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.config import Optim
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch

M, R, G, C = 3, 2, 2, 4  # micro-batches, rows, completions, tokens
OPTIM = Optim(lr=1e-2, schedule="linear", warmup_steps=2, weight_decay=0.1)
START = {
    "text": {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)},
    "vision": {"w": np.linspace(0.5, 2, 3, dtype=np.float32)},
}
FROZEN = {"scale": np.float32(0.7)}


def logprobs(params, batch):
    hidden = jnp.tanh(batch.tokens[..., None] * params["vision"]["w"]) * params["scale"]
    return jax.nn.log_softmax(hidden @ params["text"]["w"])[..., 0]


def objective(params, batch, whole, key=None, beta=None):
    """Depends on every parameter, every advantage and every token."""
    logps = logprobs(params, batch)
    loss = -(logps * batch.advantages[..., None] * batch.mask).sum() / whole.mask.sum()
    return loss, {"entropy": -logps.mean()}


def batch(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(-3, 4, (M, R, G, C)).astype(np.int32)
    mask = np.arange(C) < rng.integers(1, C + 1, (M, R, G, 1))
    advantages = rng.normal(size=(M, R, G)).astype(np.float32)
    return TrainBatch(None, tokens, mask, advantages, None, None)


def spoilt(what, seed=9):
    """A batch, frozen parameters, state's parameters by scale, all finite but for one thing."""
    of, frozen = batch(seed), dict(FROZEN)
    if what in ("advantage nan", "advantage inf", "advantage -inf", "advantage huge"):
        value = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 3e38}[what.split()[1]]
        of.advantages[...] = value
    if what == "one of a micro-batch":  # the last
        of.advantages[-1, -1, -1] = np.nan
    if what == "one of the first micro-batch":
        of.advantages[0, 0, 0] = np.inf
    if what == "norm above float32":  # every number of the gradient is finite, their squares not
        of.advantages[...] *= np.float32(1e25)
    if what == "frozen nan":
        frozen["scale"] = np.float32(np.nan)
    if what == "frozen inf":
        frozen["scale"] = np.float32(np.inf)
    return of, frozen


@functools.cache
def updates(**optim):
    """The guarded update, and the formula without a guard, both compiled."""
    cfg = Optim(**{**vars(OPTIM), **optim})
    tx = learner.optimizer(cfg, 10)
    rate = learner.schedule(cfg, 10)
    guarded = learner.make_update(objective, tx, rate)

    @jax.jit
    def plain(state, batch, frozen):
        def loss_of(params, piece):
            return objective({**params, **frozen}, piece, batch)[0]

        grads = jax.tree.map(jnp.zeros_like, state.params)
        for i in range(M):
            piece = jax.tree.map(lambda x, i=i: x[i], batch)
            grads = jax.tree.map(jnp.add, grads, jax.grad(loss_of)(state.params, piece))
        new, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, new)
        return learner.TrainState(state.step + 1, params, opt_state)

    return guarded, plain, lambda: learner.init_state(START, tx)


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("seed", range(5))
def test_a_finite_update_is_the_formula(seed):
    """Two programs, in which some processors round a product and its sum once in one and twice in
    the other: units in the last place, which four updates may add up."""
    guarded, plain, start = updates()
    ours, theirs = start(), start()
    for number in range(4):
        of = batch(10 * seed + number)
        ours, stats = guarded(ours, of, FROZEN)
        theirs = plain(theirs, of, FROZEN)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)
        assert not stats["skipped"] and int(stats["updates"]) == number + 1


@pytest.mark.parametrize(
    "what",
    [
        "advantage nan",
        "advantage inf",
        "advantage -inf",
        "advantage huge",
        "one of a micro-batch",
        "one of the first micro-batch",
        "norm above float32",
        "frozen nan",
        "frozen inf",
    ],
)
def test_what_is_not_finite_changes_nothing(what):
    """Neither parameters, moments nor counts: the next update is as if it had never been."""
    guarded, _, start = updates()
    ours, theirs = start(), start()
    ours, _ = guarded(ours, batch(0), FROZEN)
    theirs, _ = guarded(theirs, batch(0), FROZEN)
    before = bits(ours)
    ours, stats = guarded(ours, *spoilt(what))
    assert stats["skipped"] and int(stats["updates"]) == 1
    assert bits(ours) == before
    ours, stats = guarded(ours, batch(1), FROZEN)
    theirs, _ = guarded(theirs, batch(1), FROZEN)
    assert not stats["skipped"] and bits(ours) == bits(theirs)


@pytest.mark.parametrize(
    ("optim", "scale"),
    [
        ({"lr": np.inf}, 1.0),
        ({"lr": np.nan}, 1.0),
        ({"lr": 3e38, "weight_decay": 10.0}, 2.0),  # the decay alone overflows
        ({"eps": 1e-60}, 1.0),  # 0 in float32, and so 0 / 0 where nothing has a gradient
        ({"b2": 1 - 1e-12, "b1": 1 - 1e-12}, 1.0),  # 1 in float32: no bias is left to correct by
        ({"clip_norm": np.nan}, 1.0),
    ],
    ids=str,
)
def test_a_finite_gradient_may_lead_nowhere(optim, scale):
    """What the optimizer makes of it is not finite; the state is kept all the same."""
    cfg = {"schedule": "constant", "warmup_steps": 0, **optim}
    guarded, _, start = updates(**cfg)
    state = start()
    state = learner.TrainState(
        state.step, jax.tree.map(lambda x: x * scale, state.params), state.opt_state
    )
    before = bits(state)
    of = batch(0)
    of.tokens[...] = 0  # no gradient with respect to vision/w
    for _ in range(2):
        state, stats = guarded(state, of, FROZEN)
        assert stats["skipped"] and np.isfinite(stats["grad_norm"]) and bits(state) == before


@pytest.mark.parametrize("clip_norm", [1e-30, 1e-3, 1.0, 1e10, 3e38])
def test_every_clip_that_is_finite_learns(clip_norm):
    guarded, plain, start = updates(clip_norm=clip_norm)
    ours, stats = guarded(start(), batch(0), FROZEN)
    assert not stats["skipped"] and bits(ours) == bits(plain(start(), batch(0), FROZEN))


def test_the_guard_takes_no_memory_and_the_state_is_donated():
    guarded, plain, start = updates()
    state, of = start(), batch(0)
    ours = guarded.lower(state, of, FROZEN).compile().memory_analysis()
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    assert ours.alias_size_in_bytes == held
    theirs = jax.jit(plain, donate_argnums=0).lower(state, of, FROZEN).compile().memory_analysis()
    assert ours.temp_size_in_bytes <= theirs.temp_size_in_bytes + held
