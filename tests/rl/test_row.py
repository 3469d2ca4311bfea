# SPDX-License-Identifier: Apache-2.0
"""The one idea: a row of a prompt and g completions is g plain sequences, whatever g."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvl.distributed.mesh import put_rows
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from tests.rl.rows import (
    PROMPTS,
    G,
    assert_trees_close,
    grpo_step,
    policy,
    prompt_arrays,
    random_batch,
    train_batch,
)

LOGPS = 1e-5  # float32 sums in another order, log-probabilities near -6
GRADIENTS = 1e-4  # of a leaf's norm


@pytest.fixture(scope="module")
def run(vlm, pictures):
    """(g, change) -> loss, stats, log-probabilities, gradients of the batch in rows of g."""
    step = grpo_step(policy(vlm))

    def run(g, change=lambda batch: batch):
        batch = change(random_batch(vlm, [pictures[1:2], []], g))
        with jax.set_mesh(vlm.mesh):
            return jax.device_get(step(vlm.params, put_rows(batch, vlm.mesh)))

    return run


@pytest.fixture(scope="module")
def whole(run):
    return run(G)


@pytest.mark.parametrize("g", [2, 1])
def test_any_row_width_is_the_same_program(run, whole, g):
    loss, stats, logps, grads = run(g)
    assert logps.shape[:2] == (len(PROMPTS) * G // g, g)
    np.testing.assert_allclose(logps.reshape(whole[2].shape), whole[2], atol=LOGPS)
    np.testing.assert_allclose(loss, whole[0], atol=LOGPS)
    for name, value in whole[1].items():
        np.testing.assert_allclose(stats[name], value, atol=LOGPS, err_msg=name)
    assert_trees_close(grads, whole[3], GRADIENTS)


def test_the_batch_exercises_every_term(whole):
    """Else the comparison above would compare less than it says."""
    stats = whole[1]
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "kl", "entropy"):
        assert stats[name] > 0, name


def edit(name, at, value):
    def change(batch):
        array = getattr(batch, name).copy()
        array[at] = value
        return dataclasses.replace(batch, **{name: array})

    return change


def test_a_sibling_is_never_seen(run, whole):
    other = run(G, edit("tokens", np.s_[:, 1], 7))[2]
    changed = other != whole[2]
    assert changed[:, 1].any()
    assert not changed[:, [0, 2, 3]].any()


def test_a_token_changes_itself_and_what_follows(run, whole):
    at = 3
    other = run(G, edit("tokens", np.s_[:, :, at], 7))[2]
    changed = other != whole[2]
    assert changed[..., at:].all()
    assert not changed[..., :at].any()


def test_padding_of_prompt_and_pictures_is_never_seen(run, whole):
    def change(batch):
        prompt, vision = batch.prompt, batch.prompt.vision
        assert (prompt.length < prompt.tokens.shape[1]).all()
        padding = np.arange(prompt.tokens.shape[1]) >= prompt.length[:, None]
        vision = dataclasses.replace(
            vision, patches=np.where(vision.segments[..., None] == 0, 3.0, vision.patches)
        )
        prompt = dataclasses.replace(
            prompt, tokens=np.where(padding, 7, prompt.tokens), vision=vision
        )
        return dataclasses.replace(batch, prompt=prompt)

    _, _, logps, grads = run(G, change)
    np.testing.assert_array_equal(logps, whole[2])
    assert_trees_close(grads, whole[3], 1e-6)


def test_padding_of_completions_does_not_reach_loss_or_gradient(run, whole):
    def change(batch):
        return dataclasses.replace(
            batch,
            tokens=np.where(batch.mask, batch.tokens, 7),
            old_logps=np.where(batch.mask, batch.old_logps, -50.0),
        )

    loss, stats, _, grads = run(G, change)
    assert loss == whole[0]
    np.testing.assert_equal(stats, whole[1])
    assert_trees_close(grads, whole[3], 1e-6)


def test_every_picture_and_prompt_token_is_seen(run, whole):
    """The other side of the tests above: what is real does change the completions."""

    def change(batch):
        vision = batch.prompt.vision
        vision = dataclasses.replace(vision, patches=-vision.patches)
        return dataclasses.replace(batch, prompt=dataclasses.replace(batch.prompt, vision=vision))

    changed = run(G, change)[2] != whole[2]
    assert changed[0].all() and not changed[1].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 2, 1), (2, 1, 2)])
def test_axes_of_one_keep_their_sharding(vlm, shape):
    """Splitting axes of size 1 is ambiguous to jax: every such reshape names its spec."""
    R, g, C = shape
    arrays = prompt_arrays(vlm, ["a", "b"][:R], None, group=g, g=g)
    how = SamplingParams(g, C, stop_ids=(3,), pad_id=0)
    with jax.set_mesh(vlm.mesh):
        batch = put_rows(train_batch(arrays, np.zeros(shape, np.int32)), vlm.mesh)
        logps = jax.eval_shape(grpo_step(policy(vlm)), vlm.params, batch)[2]
        rollout = Sampler(vlm.graphdef, how, "float32")(vlm.params, batch.prompt, jax.random.key(0))
    assert logps.shape == rollout.tokens.shape == shape
