# SPDX-License-Identifier: Apache-2.0
"""Advantages from rewards, on the host."""

from __future__ import annotations

import numpy as np


def group_advantages(rewards_PG: np.ndarray, epsilon: float = 1e-4) -> np.ndarray:
    """(r - mean) / (std + epsilon) within each group (row), float32 [P, G].

    The standard deviation is the sample's (ddof 1), as in TRL's code of GRPO. A group whose rewards
    are all equal gets exactly 0, and so does a group of one. A reward that is NaN counts as absent:
    mean and deviation are those of the others, and its advantage is 0.
    """
    rewards = np.asarray(rewards_PG, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards: expected [prompts, group], found shape {rewards.shape}")
    known = ~np.isnan(rewards)
    count = known.sum(axis=1, keepdims=True)
    mean = np.where(known, rewards, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(known, rewards - mean, 0.0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    lowest = np.where(known, rewards, np.inf).min(axis=1, keepdims=True)
    flat = (~known | (rewards == lowest)).all(axis=1, keepdims=True)
    return np.where(flat, 0.0, centred / (spread + epsilon)).astype(np.float32)
