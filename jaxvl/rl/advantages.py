# SPDX-License-Identifier: Apache-2.0
"""Advantages from rewards, on the host. A reward that is NaN counts as absent."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32


def group_advantages(
    rewards_PG: Float[np.ndarray, "P G"],
    epsilon: float = 1e-4,
    *,
    scale: Literal["group", "batch", "none"] = "group",
    leave_one_out: bool = False,
    batch_std: float | None = None,
) -> Float32[np.ndarray, "P G"]:
    """(r - mean) / (std + epsilon) within each group (row), float32 [P, G].

    The standard deviation is the sample's (ddof 1), as in TRL's code of GRPO: the group's, that of
    all rewards together (`scale` "batch"; `batch_std` gives one over more than these), or 1 without
    epsilon ("none", as Dr. GRPO has it). With `leave_one_out` the mean is that of the group's
    others (RLOO). A group whose rewards are all equal gets exactly 0, and so does a group of one.
    Absent rewards leave mean and deviation to the others, and their advantage is 0.
    """
    rewards = np.asarray(rewards_PG, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards: expected [prompts, group], found shape {rewards.shape}")
    known = ~np.isnan(rewards)
    count = known.sum(axis=1, keepdims=True)
    mean = np.where(known, rewards, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(known, rewards - mean, 0.0)
    others = np.maximum(count - 1, 1)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / others) + epsilon
    if scale == "batch":
        spread = epsilon + (reward_std(rewards) if batch_std is None else batch_std)
    elif scale == "none":
        spread = 1.0
    if leave_one_out:
        centred *= count / others
    live = has_spread(rewards)[:, None]
    return np.where(live, centred / spread, 0.0).astype(np.float32)


def has_spread(rewards_PG: Float[np.ndarray, "P G"]) -> Bool[np.ndarray, " P"]:
    """[P], true where a group's rewards are not all equal, to the last bit.

    A standard deviation above 0 says less: that of equal numbers is often 1e-17.
    """
    lowest, highest = (
        f(np.where(np.isnan(rewards_PG), absent, rewards_PG), axis=1)
        for f, absent in ((np.min, np.inf), (np.max, -np.inf))
    )
    return lowest < highest


def reward_std(rewards: np.ndarray) -> float:
    """The sample's standard deviation of all rewards; 0 where there are fewer than two."""
    known = np.asarray(rewards, np.float64)[~np.isnan(rewards)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0
