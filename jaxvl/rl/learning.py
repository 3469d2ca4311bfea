# SPDX-License-Identifier: Apache-2.0
"""How a run of a config learns: the one place that turns settings into an objective and its update,
for what trains, what makes an update again, and what plans one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxvl.config import Config, SFTConfig
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch


@dataclasses.dataclass(frozen=True)
class Learning:
    """What makes up a run's updates."""

    policy: learner.Policy
    objective: Callable
    tx: optax.GradientTransformation
    lr: optax.Schedule
    live: Callable[[TrainBatch], jax.Array]
    beta: float | None = None  # the coefficient that updates begin with; None: they take none
    own_logps: bool = False  # whether updates read the policy's log-probabilities before the first

    def update(self, dropout: jax.Array | None) -> jax.stages.Wrapped:
        """`learner.make_update` of it."""
        return learner.make_update(self.objective, self.tx, self.lr, dropout, self.live)


@functools.singledispatch
def learning(cfg: Any, graphdef: Any) -> Learning:
    """How a run of `cfg`, of any kind that there is, learns; `graphdef` is the model's."""
    raise TypeError(f"a {type(cfg).__name__} is no config of a run")


@learning.register
def _(cfg: Config, graphdef: Any) -> Learning:
    policy, grpo = _policy(cfg, graphdef, cfg.sampling.temperature), cfg.grpo
    objective = learner.grpo_objective(policy, grpo, cfg.batch.length, by_token=True)
    live = functools.partial(learner.live_sequences, beta=grpo.beta)
    return Learning(policy, objective, *_descent(cfg), live, grpo.beta, grpo.own_logps)


@learning.register
def _(cfg: SFTConfig, graphdef: Any) -> Learning:
    policy = _policy(cfg, graphdef, temperature=1.0)
    return Learning(policy, learner.sft_objective(policy), *_descent(cfg), learner.any_token)


def _policy(cfg: Config | SFTConfig, graphdef: Any, temperature: float) -> learner.Policy:
    model, chunk = cfg.model, cfg.batch.logprob_chunk
    return learner.Policy(graphdef, model.dtype, model.remat, temperature, chunk)


def _descent(cfg: Config | SFTConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    updates = cfg.run.steps * cfg.batch.updates
    return learner.optimizer(cfg.optim, updates), learner.schedule(cfg.optim, updates)
