# SPDX-License-Identifier: Apache-2.0
"""The pytrees that flow through a step. Every array has the row axis R in front.

R rows (a prompt and g of its G completions each), T prompt tokens, P patches of a row, M = P/4
merged patches, E values in a patch, C completion tokens.
"""

from __future__ import annotations

import dataclasses

import jax

from jaxvl.models.inputs import Prompt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """What sampling returns: g completions a row."""

    tokens: jax.Array  # [R, g, C] int32; the pad id after the end
    mask: jax.Array  # [R, g, C] bool, true through the first end token
    logps: jax.Array  # [R, g, C] float32, at the sampling temperature; 0 where masked
    finished: jax.Array  # [R, g] bool, ended by a stop token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """What one update sees: prompts, their completions, advantages, stored log-probabilities.

    Micro-batches are an extra leading axis of every leaf, put there on the host.
    """

    prompt: Prompt
    tokens: jax.Array  # [R, g, C] int32
    mask: jax.Array  # [R, g, C] bool
    advantages: jax.Array  # [R, g] float32
    old_logps: jax.Array  # [R, g, C] float32, the sampler's
    ref_logps: jax.Array  # [R, g, C] float32, the reference's; zeros where beta is 0
    own_logps: jax.Array | None = None  # [R, g, C] the learner's before its first update, if made
    # Of whole rows (fine-tuning), whose prompts hold the targets as well, S tokens a row: `tokens`
    # are those that count, one group of C, and stand anywhere in it.
    examples: jax.Array | None = None  # [R, S] int32, 1, 2, .. whose token it is; 0 on padding
    at: jax.Array | None = (
        None  # [R, C] int32, where the token stands that predicts one of `tokens`
    )
