# SPDX-License-Identifier: Apache-2.0
"""Group advantages against the formula, one group at a time."""

import statistics

import numpy as np
import pytest

from jaxvl.rl.advantages import group_advantages, has_spread, reward_std


def test_formula():
    rewards = [[1.0, 0.0, 0.5, 2.0], [0.1, 0.2, 0.3, 0.3]]
    expected = [
        [
            (r - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)  # stdev: ddof 1
            for r in group
        ]
        for group in rewards
    ]
    got = group_advantages(np.array(rewards))
    assert got.dtype == np.float32 and got.shape == (2, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # rounding to float32


def test_epsilon_bounds_the_advantage_of_a_hair():
    rewards = np.array([[0.0, 1e-6]])
    spread = 1e-6 / np.sqrt(2)
    expected = 0.5e-6 / (spread + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards), [[-expected, expected]], rtol=1e-6)
    np.testing.assert_allclose(group_advantages(rewards, epsilon=0.0), [[-(0.5**0.5), 0.5**0.5]])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -7.7])
def test_equal_rewards_are_exactly_zero(reward):
    """0.1 * 6 / 6 is not 0.1 in floating point: the mean alone would leave a remainder."""
    got = group_advantages(np.full((3, 6), reward))
    assert (got == 0).all()


def test_one_flat_group_leaves_the_others_alone():
    rewards = np.array([[1.0, 0.0], [0.3, 0.3]])
    got = group_advantages(rewards)
    np.testing.assert_array_equal(got[0], group_advantages(rewards[:1])[0])
    assert (got[1] == 0).all() and (got[0] != 0).all()


def test_a_group_of_one_is_zero():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(group_advantages(np.array([[3.0], [0.0]])), [[0.0], [0.0]])


def test_float32_rewards_are_averaged_in_float64():
    rewards = np.array([[1e4 + 1, 1e4, 1e4 + 2, 1e4 + 3]], np.float32)
    np.testing.assert_allclose(
        group_advantages(rewards), group_advantages(rewards - np.float32(1e4)), rtol=1e-6
    )


def test_shape_is_checked():
    with pytest.raises(ValueError, match=r"\[prompts, group\], found shape \(4,\)"):
        group_advantages(np.zeros(4))


def test_absent_rewards_leave_the_group_to_the_others():
    rewards = np.array([[1.0, np.nan, 0.5, 2.0], [np.nan, 3.0, np.nan, np.nan], [np.nan] * 4])
    got = group_advantages(rewards)
    np.testing.assert_allclose(
        got[0, [0, 2, 3]], group_advantages(np.array([[1.0, 0.5, 2.0]]))[0], rtol=1e-6
    )
    assert got[0, 1] == 0 and not got[1:].any()


SOME = np.array([[1.0, 0.0, 0.5, 2.0], [0.1, 0.2, 0.3, 0.3], [0.7, 0.7, 0.7, 0.7]])


def test_scaled_by_the_batch_or_not_at_all():
    centred = SOME - SOME.mean(axis=1, keepdims=True)
    centred[2] = 0
    got = group_advantages(SOME, scale="none")
    np.testing.assert_allclose(got, centred, rtol=1e-6, atol=1e-7)  # rounding to float32
    std = statistics.stdev(SOME.ravel())
    got = group_advantages(SOME, scale="batch")
    np.testing.assert_allclose(got, centred / (std + 1e-4), rtol=1e-6, atol=1e-7)
    wider = group_advantages(SOME[:1], scale="batch", batch_std=reward_std(SOME))
    np.testing.assert_array_equal(wider, got[:1])


@pytest.mark.parametrize("scale", ["none", "group"])
def test_leave_one_out_compares_with_the_mean_of_the_others(scale):
    rewards = np.array([[1.0, np.nan, 0.5, 2.0]])
    known = [1.0, 0.5, 2.0]
    others = [(0.5 + 2) / 2, (1 + 2) / 2, (1 + 0.5) / 2]
    expected = np.subtract(known, others) / (
        1 if scale == "none" else statistics.stdev(known) + 1e-4
    )
    got = group_advantages(rewards, scale=scale, leave_one_out=True)
    np.testing.assert_allclose(got[0, [0, 2, 3]], expected, rtol=1e-6)
    assert got[0, 1] == 0


def test_spread_is_told_by_equality():
    rewards = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1 + 1e-16], [1, np.nan, 1], [1, np.nan, 2]])
    rewards = np.vstack([rewards, np.full((1, 3), np.nan)])
    assert rewards[0].std() > 0  # of equal numbers
    np.testing.assert_array_equal(has_spread(rewards), [False, True, False, True, False])


def test_the_deviation_of_too_few_is_zero():
    assert reward_std(np.array([[1.0, np.nan]])) == 0
    assert group_advantages(np.array([[1.0, np.nan]]), scale="batch").tolist() == [[0, 0]]


def test_a_weight_of_a_prompts_reward_counts_only_where_its_group_does_not_scale_it():
    """A weight of one kind of question is one of whole groups (`rewards.vlaa.Weights`)."""
    weighted = SOME * np.array([[3.0]] + [[1.0]] * (len(SOME) - 1))
    plain, heavy = (group_advantages(x, scale="group") for x in (SOME, weighted))
    np.testing.assert_allclose(heavy, plain, rtol=1e-3, atol=1e-3)  # but for the epsilon
    plain, heavy = (group_advantages(x, scale="none") for x in (SOME, weighted))
    np.testing.assert_allclose(heavy[0], 3 * plain[0], rtol=1e-6)
    batch = group_advantages(weighted, scale="batch")
    assert np.abs(batch[0]).max() > 2 * np.abs(batch[1]).max() > 0
