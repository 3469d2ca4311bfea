# SPDX-License-Identifier: Apache-2.0
"""The pytrees that flow through a step. Every array has the row axis R in front.

R rows (a prompt and g of its G completions each), T prompt tokens, Q patches of a row, M = Q/4
merged patches, E values in a patch, C completion tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Bool, Float32, Int32

from jaxvl.models.inputs import Prompt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """What sampling returns: g completions a row."""

    tokens: Int32[Array, "R g C"]  # the pad id after the end
    mask: Bool[Array, "R g C"]  # true through the first end token
    logps: Float32[Array, "R g C"]  # at the sampling temperature; 0 where masked
    finished: Bool[Array, "R g"]  # ended by a stop token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """What one update sees: prompts, their completions, advantages, stored log-probabilities.

    Micro-batches are an extra leading axis of every leaf, put there on the host.
    """

    prompt: Prompt
    tokens: Int32[Array, "R g C"]
    mask: Bool[Array, "R g C"]
    advantages: Float32[Array, "R g"]
    old_logps: Float32[Array, "R g C"]  # the sampler's
    ref_logps: Float32[Array, "R g C"]  # the reference's; zeros where beta is 0
    # The learner's before its first update, if made.
    own_logps: Float32[Array, "R g C"] | None = None
    # Of whole rows (fine-tuning), whose prompts hold the targets as well, S tokens a row: `tokens`
    # are those that count, one group of C, and stand anywhere in it.
    examples: Int32[Array, "R S"] | None = None  # 1, 2, .. whose token it is; 0 on padding
    # Where the token stands that predicts one of `tokens`.
    at: Int32[Array, "R C"] | None = None


# The fields of a train batch that its log-probabilities do not depend on, left out.
UNREAD: dict[str, Any] = dict.fromkeys(("mask", "advantages", "old_logps", "ref_logps"))
