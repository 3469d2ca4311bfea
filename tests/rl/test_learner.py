# SPDX-License-Identifier: Apache-2.0
"""The update: true means over micro-batches, one program, AdamW and schedules by their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.config import GRPO, Grpo, Optim
from jaxvl.distributed.mesh import put_rows
from jaxvl.rl import learner
from tests.rl.rows import V, assert_trees_close, completions, policy, random_batch

CFG = GRPO(num_iterations=2, beta=0.1, loss=Grpo(epsilon_high=0.3))
PROMPTS = [f"{V}left or right?", "How many blue squares are there?", f"{V}red?", "Above or below?"]


@pytest.fixture(scope="module")
def batch(vlm, pictures):
    """Four rows whose completions have from 1 to 6 tokens."""
    images = [pictures[1:2], [], pictures[:1], []]
    batch = random_batch(vlm, images, 4, PROMPTS)
    lengths = batch.mask.sum(-1)
    assert lengths.min() == 1 and lengths.max() == 6
    return batch


def micro(batch, count):
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def update_once(vlm, batch, objective, tx, count):
    """Parameters and stats after one update in `count` micro-batches."""
    with jax.set_mesh(vlm.mesh):
        update = learner.make_update(objective, tx, lambda step: 1.0)
        state = learner.init_state(vlm.params, tx)
        state, stats = update(state, put_rows(micro(batch, count), vlm.mesh, lead=1))
        return jax.device_get((state.params, stats))


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_micro_batches_add_up_to_the_whole_batch(vlm, batch, kind):
    """One step of plain descent, so that the change of the parameters is the gradient."""
    objective = {
        "grpo": learner.grpo_objective(policy(vlm), CFG),
        "sft": learner.sft_objective(policy(vlm)),
    }[kind]
    counts = (1, 2, 4) if kind == "grpo" else (1, 4)
    results = [update_once(vlm, batch, objective, optax.sgd(1.0), count) for count in counts]
    start = jax.device_get(vlm.params)
    changes = [jax.tree.map(np.subtract, params, start) for params, _ in results]
    for change, (_, stats) in zip(changes[1:], results[1:], strict=True):
        # 1e-4: the change is the rounded sum with a parameter 10 to 1000 times as large
        assert_trees_close(change, changes[0], 1e-4)
        assert stats.keys() == results[0][1].keys()
        for name, value in results[0][1].items():
            np.testing.assert_allclose(stats[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    if kind == "sft":
        logps = batch_logprobs(vlm, batch)
        np.testing.assert_allclose(results[0][1]["loss"], -logps[batch.mask].mean(), rtol=1e-5)


def batch_logprobs(vlm, batch):
    with jax.set_mesh(vlm.mesh):
        logprobs = learner.make_logprobs(policy(vlm))
        return np.asarray(
            logprobs(vlm.params, put_rows(micro(batch, 2), vlm.mesh, lead=1))
        ).reshape(batch.tokens.shape)


@pytest.fixture(scope="module")
def three_updates(vlm, batch):
    """States, stats of three AdamW updates on batches of other tokens; the update itself."""
    cfg = dataclasses.replace(CFG, num_iterations=1)
    optim = Optim(lr=1e-3, schedule="linear", warmup_steps=2)
    tx = learner.optimizer(optim, 10)
    rng = np.random.default_rng(1)
    with jax.set_mesh(vlm.mesh):
        update = learner.make_update(
            learner.grpo_objective(policy(vlm), cfg), tx, learner.schedule(optim, 10)
        )
        state = learner.init_state(vlm.params, tx)
        seen = []
        for _ in range(3):
            tokens, mask = completions(rng, len(PROMPTS))
            other = dataclasses.replace(batch, tokens=tokens, mask=mask)
            new, stats = update(state, put_rows(micro(other, 1), vlm.mesh, lead=1))
            seen.append((state, new, jax.device_get(stats)))
            state = new
    return update, seen


def test_a_steady_run_compiles_once(three_updates):
    update, seen = three_updates
    assert update._cache_size() == 1
    assert int(seen[-1][1].step) == 3


def test_the_state_is_donated_and_the_loaded_parameters_are_not(vlm, three_updates):
    _, seen = three_updates
    for old, _, _ in seen:
        assert all(x.is_deleted() for x in jax.tree.leaves((old.params, old.opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves(vlm.params))


def test_learning_rate_is_reported_as_used(three_updates):
    rates = [float(stats["learning_rate"]) for _, _, stats in three_updates[1]]
    np.testing.assert_allclose(rates, [0.5e-3, 0.75e-3, 1e-3], rtol=1e-6)


def test_one_update_a_rollout_has_ratio_one(three_updates):
    """Nothing is clipped, whatever the sampler's log-probabilities say; they are compared."""
    for _, _, stats in three_updates[1]:
        assert stats["clip_ratio/region_mean"] == 0
        assert stats["sampling/sampling_logp_difference/max"] > 0.1
        assert np.isfinite(list(stats.values())).all()


def test_sampling_difference_is_zero_against_its_own_logprobs(vlm, batch):
    logps = batch_logprobs(vlm, batch)
    objective = learner.grpo_objective(policy(vlm), CFG)
    own = dataclasses.replace(batch, old_logps=np.where(batch.mask, logps, 0.0))
    _, stats = update_once(vlm, own, objective, optax.sgd(1.0), 1)
    assert stats["sampling/sampling_logp_difference/max"] < 1e-5  # float32 rounding
    assert stats["clip_ratio/region_mean"] == 0


def test_masters_are_float32_copies(vlm):
    with jax.set_mesh(vlm.mesh):
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), vlm.params)
        state = learner.init_state(half, learner.optimizer(Optim(), 1))
    leaves = jax.tree.leaves((state.params, state.opt_state))
    assert {x.dtype for x in leaves} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}


def plain_adamw(params, grads, cfg, rates):
    """Loshchilov and Hutter, 2019, algorithm 2, with clipping by global norm in front."""
    p = {k: v.astype(np.float64) for k, v in params.items()}
    m = {k: 0.0 for k in p}
    v = {k: 0.0 for k in p}
    for t, (grad, lr) in enumerate(zip(grads, rates, strict=True), start=1):
        norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in grad.values()))
        scale = min(1.0, cfg.clip_norm / norm)
        for k in p:
            g = grad[k] * scale
            m[k] = cfg.b1 * m[k] + (1 - cfg.b1) * g
            v[k] = cfg.b2 * v[k] + (1 - cfg.b2) * g**2
            m_hat, v_hat = m[k] / (1 - cfg.b1**t), v[k] / (1 - cfg.b2**t)
            p[k] -= lr * (m_hat / (np.sqrt(v_hat) + cfg.eps) + cfg.weight_decay * p[k])
    return p


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
def test_optimizer_is_adamw_after_a_clip(clip_norm):
    rng = np.random.default_rng(0)

    def tree(scale):
        return {
            "w": (scale * rng.normal(size=(3, 2))).astype(np.float32),
            "b": (scale * rng.normal(size=2)).astype(np.float32),
        }

    # eps is large enough to matter: with a tiny one the clip would cancel out of the first step
    cfg = Optim(lr=0.1, weight_decay=0.2, b1=0.8, b2=0.9, eps=1e-2, clip_norm=clip_norm)
    params, grads = tree(1.0), [tree(1.0), tree(3.0), tree(0.01)]
    tx = learner.optimizer(dataclasses.replace(cfg, schedule="linear"), 4)
    opt_state, ours = tx.init(params), params
    for grad in grads:
        updates, opt_state = tx.update(grad, opt_state, ours)
        ours = optax.apply_updates(ours, updates)
    expected = plain_adamw(params, grads, cfg, rates=[0.1, 0.075, 0.05])
    for k in params:
        np.testing.assert_allclose(ours[k], expected[k], rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, {0: 1.0, 9: 1.0, 50: 1.0}),
        ("constant", 4, {0: 0.25, 2: 0.625, 4: 1.0, 9: 1.0}),
        ("linear", 0, {0: 1.0, 5: 0.5, 9: 0.1, 10: 0.0, 12: 0.0}),
        ("linear", 2, {0: 0.5, 1: 0.75, 2: 1.0, 6: 0.5, 10: 0.0}),
        ("cosine", 0, {0: 1.0, 5: 0.5, 8: (1 + np.cos(0.8 * np.pi)) / 2, 10: 0.0}),
        ("cosine", 2, {0: 0.5, 2: 1.0, 6: 0.5, 10: 0.0}),
        ("linear", 10, {0: 0.1, 9: 0.91}),
        ("linear", 20, {0: 0.1, 9: 0.91}),  # never more than all updates
        ("linear", 0.2, {0: 0.5, 1: 0.75, 2: 1.0, 6: 0.5, 10: 0.0}),  # a share of them
    ],
)
def test_schedules_over_ten_updates(schedule, warmup, expected):
    lr = learner.schedule(Optim(lr=3.0, schedule=schedule, warmup_steps=warmup), 10)
    found = {step: float(lr(step)) / 3.0 for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("updates", [1, 2, 5, 10, 20])
def test_a_schedule_has_a_horizon_whatever_the_run_is(schedule, updates):
    optim = Optim(lr=2.0, schedule=schedule, min_lr=0.5, warmup_steps=0.2)
    own = learner.schedule(dataclasses.replace(optim, horizon=10), updates)
    whole = learner.schedule(optim, 10)
    for step in (0, 1, 2, 6, 10, 19):
        assert float(own(step)) == float(whole(step))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_ends_at_its_lowest(schedule):
    lr = learner.schedule(Optim(lr=4e-6, schedule=schedule, min_lr=1e-6, warmup_steps=2), 10)
    np.testing.assert_allclose([lr(2), lr(6), lr(10)], [4e-6, 2.5e-6, 1e-6], rtol=1e-6)
