# SPDX-License-Identifier: Apache-2.0
"""What the learner hands to a loss, through the real update, on a policy of two numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.config import GRPO, Bnpo, Cispo, Dapo, DrGrpo, Grpo, Gspo
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.losses import BatchCounts, policy_loss

R, G, C = 6, 2, 5
CLOSE = 1e-5  # float32 sums of 60 terms of size 1
START = {"a": jnp.float32(0.3), "b": jnp.float32(-0.2)}


class Toy:
    """log p = -exp(a x + b), x a token's number; the entropy is x."""

    def logprobs(self, params, batch, dropout=None):
        x = batch.tokens / 10
        return -jnp.exp(params["a"] * x + params["b"]), x


def toy_batch(seed=0, dead=()) -> TrainBatch:
    """A host batch; rows in `dead` have no advantage."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 10, (R, G, C)).astype(np.int32)
    logps = np.asarray(Toy().logprobs(START, TrainBatch(None, tokens, *[None] * 4))[0])
    noise = rng.normal(0, 0.3, (3, R, G, C)).astype(np.float32)
    advantages = rng.normal(size=(R, G)).astype(np.float32)
    advantages[list(dead)] = 0
    return TrainBatch(
        prompt=None,
        tokens=tokens,
        mask=np.arange(C) < rng.integers(1, C + 1, (R, G, 1)),
        advantages=advantages,
        old_logps=logps + noise[0],
        ref_logps=logps + noise[1],
        own_logps=logps + noise[2],
    )


def micro(batch, count):
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def updated(cfg, batch, beta=None, by_token=False):
    """Gradients and stats of one update of plain descent, in cfg.micro_batches."""
    live = functools.partial(learner.live_sequences, beta=cfg.beta)
    tx = optax.sgd(1.0)
    update = learner.make_update(
        learner.grpo_objective(Toy(), cfg, C, by_token), tx, lambda step: 1.0, live=live
    )
    state = learner.init_state(START, tx)
    state, stats = update(state, micro(batch, cfg.micro_batches), None, beta)
    return {k: float(START[k] - state.params[k]) for k in START}, jax.device_get(stats)


def expected(cfg, batch, old, correction=None, beta=None):
    """The gradients of the loss of the whole batch."""

    def loss(params):
        logps = Toy().logprobs(params, batch)[0]
        return policy_loss(
            cfg.loss,
            logps,
            logps if old is None else old,
            batch.ref_logps,
            batch.advantages,
            batch.mask,
            beta=beta or cfg.beta or None,
            kl=cfg.kl,
            correction=correction,
            whole=BatchCounts.of(jnp.asarray(batch.mask), C),
        )[0]

    return {name: float(x) for name, x in jax.grad(loss)(START).items()}


def assert_close(found, wanted):
    for name, value in wanted.items():
        assert value != 0
        np.testing.assert_allclose(found[name], value, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("loss", [Grpo(), DrGrpo(), Dapo(), Cispo(), Gspo(0.1, 0.1)], ids=str)
def test_micro_batches_do_not_change_the_gradient(loss):
    """Rows of 2 to 10 tokens: a mean of the micro-batches' own means would be another number."""
    cfg, batch = GRPO(loss=loss, beta=0.1, kl="k2", num_iterations=2), toy_batch()
    wanted = expected(cfg, batch, old=batch.old_logps)
    for count in (1, 3):
        found, stats = updated(dataclasses.replace(cfg, micro_batches=count), batch)
        assert_close(found, wanted)
        tokens = batch.tokens[batch.mask] / 10
        np.testing.assert_allclose(stats["entropy"], tokens.mean(), rtol=CLOSE)


def test_bnpo_takes_the_mean_of_its_micro_batches_means():
    cfg, batch = GRPO(loss=Bnpo(), beta=0.0, num_iterations=2, micro_batches=3), toy_batch()
    parts = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch) for i in range(3)]
    dapo = dataclasses.replace(cfg, loss=Dapo())
    alone = [expected(dapo, part, part.old_logps) for part in parts]
    assert_close(updated(cfg, batch)[0], {k: sum(x[k] for x in alone) / 3 for k in START})


@pytest.mark.parametrize("loss", [Grpo(), Dapo()], ids=str)
def test_dead_rows_are_not_computed_and_change_nothing(loss):
    """The dead rows' log-probabilities are NaN: going through them would show."""
    cfg = GRPO(loss=loss, beta=0.0, num_iterations=2, micro_batches=3)
    batch = toy_batch(dead=(0, 1, 4))
    wanted, stats = updated(cfg, batch)
    spoilt = batch.old_logps.copy()
    spoilt[[0, 1, 4]] = np.nan
    ordered = learner.live_first(dataclasses.replace(batch, old_logps=spoilt), cfg)
    assert np.isnan(ordered.old_logps[-2:]).all()
    # Three live rows take two of three micro-batches; one dead row is among them.
    ordered.old_logps[3] = 0.0
    found, fewer = updated(cfg, ordered)
    assert_close(found, wanted)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(fewer[name], stats[name], rtol=CLOSE, err_msg=name)


def test_a_batch_without_a_live_row_goes_through_one_micro_batch():
    cfg = GRPO(beta=0.0, micro_batches=3)
    batch = toy_batch(dead=range(R))
    found, stats = updated(cfg, batch)
    assert set(found.values()) == {0.0} and stats["loss"] == 0
    seen = batch.tokens[:2][batch.mask[:2]] / 10
    np.testing.assert_allclose(stats["entropy"], seen.mean(), rtol=CLOSE)
    # with a pull to the reference no row is dead, only those without tokens
    assert learner.live_rows(batch, 0.1).all()
    assert not learner.live_rows(dataclasses.replace(batch, mask=batch.mask & False), 0.1).any()


@pytest.mark.parametrize("loss", [Grpo(), Bnpo()], ids=str)
def test_live_rows_come_first_within_each_mini_batch(loss):
    """Two mini-batches of three rows; with Bnpo a micro-batch of one row is one row as well."""
    cfg = GRPO(loss=loss, beta=0.0, mini_batches=2, micro_batches=3)
    batch = toy_batch(dead=(0, 2, 4))
    ordered = learner.live_first(batch, cfg)
    rows = [1, 0, 2, 3, 5, 4]
    for name in ("tokens", "mask", "advantages", "old_logps", "own_logps"):
        np.testing.assert_array_equal(getattr(ordered, name), getattr(batch, name)[rows])


@pytest.mark.parametrize(
    ("dead", "beta", "mini_batches"),
    [((), 0.0, 1), ((5,), 0.0, 1), ((4, 5), 0.0, 1), ((0, 3), 0.04, 1), ((2, 5), 0.0, 2)],
)
def test_a_batch_in_order_is_not_copied(dead, beta, mini_batches):
    """Also where its last rows are dead, or, with a pull to the reference, any of them."""
    cfg, batch = GRPO(beta=beta, mini_batches=mini_batches, micro_batches=3), toy_batch(dead=dead)
    ordered = learner.live_first(batch, cfg)
    leaves = zip(jax.tree.leaves(ordered), jax.tree.leaves(batch), strict=True)
    assert all(one is other for one, other in leaves)


def test_bnpo_keeps_its_micro_batches_together():
    cfg = GRPO(loss=Bnpo(), beta=0.0, micro_batches=3)
    batch = toy_batch(dead=(0, 1, 2))
    np.testing.assert_array_equal(
        learner.live_first(batch, cfg).tokens, batch.tokens[[2, 3, 4, 5, 0, 1]]
    )
    assert_close(updated(cfg, learner.live_first(batch, cfg))[0], updated(cfg, batch)[0])


def test_truncated_importance_sampling_with_one_update():
    """The learner's own log-probabilities are at hand: ratio 1, weight min(own / sampler, cap)."""
    cfg = GRPO(beta=0.0, importance_sampling_cap=1.2)
    batch = dataclasses.replace(toy_batch(), own_logps=None)
    logps = Toy().logprobs(START, batch)[0]
    weight = np.minimum(np.exp(logps - batch.old_logps), 1.2)
    assert 0.1 < (weight == np.float32(1.2)).mean() < 0.9
    found, stats = updated(cfg, batch)
    assert_close(found, expected(cfg, batch, old=logps, correction=weight))
    shown = {k.rpartition("/")[2]: v for k, v in stats.items() if "sampling_ratio" in k}
    np.testing.assert_allclose(shown["mean"], weight[batch.mask].mean(), rtol=CLOSE)
    np.testing.assert_allclose(shown["max"], 1.2, rtol=CLOSE)


def test_truncated_importance_sampling_with_several_updates():
    """Ratios are to what the learner held before the first of them, weights from that too."""
    cfg = GRPO(beta=0.0, num_iterations=2, importance_sampling_cap=1.2)
    batch = toy_batch()
    weight = np.minimum(np.exp(batch.own_logps - batch.old_logps), 1.2)
    wanted = expected(cfg, batch, old=batch.own_logps, correction=weight)
    assert_close(updated(cfg, batch)[0], wanted)


def test_the_difference_to_the_sampler_is_of_tokens_that_count():
    batch = toy_batch()
    _, stats = updated(GRPO(beta=0.0, micro_batches=2), batch)
    gap = np.abs(Toy().logprobs(START, batch)[0] - batch.old_logps)[batch.mask]
    name = "sampling/sampling_logp_difference"
    np.testing.assert_allclose(stats[f"{name}/mean"], gap.mean(), rtol=CLOSE)
    np.testing.assert_allclose(stats[f"{name}/max"], gap.max(), rtol=CLOSE)


def test_the_difference_by_token_is_in_its_place_and_unknown_where_nothing_is_computed():
    batch = toy_batch(dead=(4, 5))
    _, stats = updated(GRPO(beta=0.0, micro_batches=3), batch, by_token=True)
    found = stats[learner.TOKEN_GAP].reshape(R, G, C)
    true = np.where(batch.mask, Toy().logprobs(START, batch)[0] - batch.old_logps, np.nan)
    np.testing.assert_allclose(found[:4], true[:4], rtol=CLOSE, atol=CLOSE)
    assert np.isnan(found[4:]).all()


def test_an_adaptive_coefficient_is_handed_in():
    cfg, batch = GRPO(beta=0.1, num_iterations=2), toy_batch()
    found, stats = updated(cfg, batch, beta=np.float32(0.7))
    assert_close(found, expected(cfg, batch, old=batch.old_logps, beta=0.7))
    assert stats["kl"] > 0
