# SPDX-License-Identifier: Apache-2.0
"""Advantages from rewards, on the host."""

from __future__ import annotations

import numpy as np


def group_advantages(rewards_PG: np.ndarray, epsilon: float = 1e-4) -> np.ndarray:
    """(r - mean) / (std + epsilon) within each group (row), float32 [P, G].

    The standard deviation is the sample's (ddof 1), as in TRL's code of GRPO. A group whose rewards
    are all equal gets exactly 0, and so does a group of one.
    """
    rewards = np.asarray(rewards_PG, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards: expected [prompts, group], found shape {rewards.shape}")
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    spread = rewards.std(axis=1, ddof=1, keepdims=True) if rewards.shape[1] > 1 else 0.0
    flat = (rewards == rewards[:, :1]).all(axis=1, keepdims=True)
    return np.where(flat, 0.0, centred / (spread + epsilon)).astype(np.float32)
