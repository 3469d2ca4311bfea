# SPDX-License-Identifier: Apache-2.0
"""The learner: state in, state out, one jitted and donated update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxvl.batch import TrainBatch
from jaxvl.config import GRPO, Optim
from jaxvl.models import lora, parts
from jaxvl.models.qwen_vl import assemble
from jaxvl.rl.logprobs import token_logprobs
from jaxvl.rl.losses import grpo_loss, sft_loss

Stats = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything an update changes."""

    step: jax.Array  # [] int32, updates done
    params: dict[str, Any]  # of what trains, and nothing else: float32 master weights
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Policy:
    """How log-probabilities are computed: the model without its weights, and the settings of it."""

    graphdef: nnx.GraphDef
    dtype: str  # of the products
    remat: str  # see `layers.for_backward`
    temperature: float
    chunk: int  # tokens of a row whose logits exist at a time

    def logprobs(
        self, params: dict[str, Any], batch: TrainBatch, dropout: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """log p of the batch's completion tokens, and the entropy there: two [R, g, C].

        With a key for `dropout` the model's adapters drop out.
        """
        model = assemble(self.graphdef, params, self.dtype)
        if dropout is not None:
            lora.drop_out(model, dropout)
        hidden = model.completion_hidden(batch.prompt, batch.tokens, self.remat)
        return token_logprobs(model.text, hidden, batch.tokens, self.temperature, self.chunk)


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then constant, linear to 0 or cosine to 0."""
    rest = max(steps - cfg.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(cfg.lr, rest),
    }[cfg.schedule]
    if not cfg.warmup_steps:
        return after
    # The first update already moves: the ramp goes from lr/warmup to lr.
    ramp = optax.linear_schedule(cfg.lr / cfg.warmup_steps, cfg.lr, cfg.warmup_steps)
    return optax.join_schedules([ramp, after], [cfg.warmup_steps])


def optimizer(cfg: Optim, steps: int) -> optax.GradientTransformation:
    """AdamW after a clip by global norm."""
    adamw = optax.adamw(
        schedule(cfg, steps), cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay
    )
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adamw)


def init_state(params: dict[str, Any], tx: optax.GradientTransformation) -> TrainState:
    """A fresh state around float32 copies of `params`; moments take the parameters' shardings."""

    def make(params):
        masters = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
        return TrainState(jnp.int32(0), masters, tx.init(masters))

    return jax.jit(make)(params)


def grpo_objective(policy: Policy, cfg: GRPO) -> Callable:
    """Loss of one micro-batch, as its share of the whole batch's loss."""

    def objective(params, batch: TrainBatch, whole: TrainBatch, dropout=None):
        logps, entropy = policy.logprobs(params, batch, dropout)
        # With one update a rollout the policy that sampled is the policy that learns: ratio 1.
        old = batch.old_logps if cfg.num_iterations > 1 else jax.lax.stop_gradient(logps)
        loss, stats = grpo_loss(
            logps,
            old,
            batch.ref_logps,
            batch.advantages,
            batch.mask,
            epsilon=cfg.epsilon,
            epsilon_high=cfg.epsilon_high,
            beta=cfg.beta,
            sequences=float(whole.advantages.size),
        )
        tokens = jnp.maximum(whole.mask.sum(), 1)
        gap = jnp.abs(jnp.where(batch.mask, logps - batch.old_logps, 0.0))
        stats |= {
            "entropy": jnp.where(batch.mask, entropy, 0.0).sum() / tokens,
            "sampling/sampling_logp_difference/mean": gap.sum() / tokens,
            "sampling/sampling_logp_difference/max": gap.max(),
        }
        return loss, stats

    return objective


def sft_objective(policy: Policy) -> Callable:
    """Negative log-likelihood, a mean over the whole batch's tokens; advantages are not read."""

    def objective(params, batch: TrainBatch, whole: TrainBatch, dropout=None):
        logps, entropy = policy.logprobs(params, batch, dropout)
        tokens = jnp.maximum(whole.mask.sum(), 1)
        loss = sft_loss(logps, batch.mask, tokens=tokens)
        return loss, {"entropy": jnp.where(batch.mask, entropy, 0.0).sum() / tokens}

    return objective


def make_update(
    objective: Callable,
    tx: optax.GradientTransformation,
    lr: optax.Schedule,
    dropout: jax.Array | None = None,
) -> Callable[..., tuple[TrainState, Stats]]:
    """The jitted `update(state, batch, frozen)`. Leaves of `batch` have micro-batches in front.

    `frozen` holds the parameters that do not train (by default there are none): there is no
    gradient with respect to them, and the state knows nothing of them. `dropout` is a key, from
    which every micro-batch of every update folds its own.

    Micro-batches are scanned and their gradients added: every one is already divided by the counts
    of the whole batch, so the sum is the true mean whatever way the batch is cut. `state` is
    donated. Stats that end in "max" are maxima over micro-batches, all others sums of shares.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch: TrainBatch, frozen: dict[str, Any] | None = None):
        def loss_of(params, piece, number):
            key = dropout
            if key is not None:
                key = jax.random.fold_in(jax.random.fold_in(key, state.step), number)
            return objective(parts.join(frozen or {}, params), piece, batch, key)

        def micro(grads, numbered):
            (loss, stats), more = jax.value_and_grad(loss_of, has_aux=True)(state.params, *numbered)
            return jax.tree.map(jnp.add, grads, more), stats | {"loss": loss}

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        numbered = (batch, jnp.arange(len(batch.tokens)))
        grads, stats = jax.lax.scan(micro, zeros, numbered)
        stats = {name: x.max(0) if name.endswith("max") else x.sum(0) for name, x in stats.items()}
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        stats |= {"grad_norm": optax.tree.norm(grads), "learning_rate": lr(state.step)}
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), stats

    return update


def make_logprobs(policy: Policy) -> Callable[[dict[str, Any], TrainBatch], jax.Array]:
    """Jitted log-probabilities [M, R, g, C] of a batch with micro-batches, no gradient kept."""

    @jax.jit
    def logprobs(params, batch: TrainBatch):
        return jax.lax.map(lambda piece: policy.logprobs(params, piece)[0], batch)

    return logprobs
