# SPDX-License-Identifier: Apache-2.0
"""The learner: state in, state out, one jitted and donated update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.config import GRPO, Bnpo, Optim
from jaxvl.models import lora, partition
from jaxvl.models.finite import all_finite
from jaxvl.models.qwen_vl import assemble
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.logprobs import token_logprobs
from jaxvl.rl.losses import BatchCounts, Stats, policy_loss, sft_loss, truncated_weights
from jaxvl.rl.placement import Placement

TOKEN_GAP = "token_gap"  # the one stat that is an array: see `grpo_objective`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything an update changes."""

    step: jax.Array  # [] int32, updates done: those that were skipped are not among them
    params: dict[str, Any]  # of what trains, and nothing else: float32 master weights
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Policy:
    """How log-probabilities are computed: the model without its weights, and the settings of it."""

    graphdef: nnx.GraphDef
    dtype: str  # of the products
    remat: str  # see `layers.remat_layer`
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
        if batch.at is None or batch.examples is None:
            hidden = model.completion_hidden(batch.prompt, batch.tokens, self.remat)
        else:
            hidden = model.row_hidden(batch.prompt, batch.examples, batch.at, self.remat)
        return token_logprobs(model.text, hidden, batch.tokens, self.temperature, self.chunk)


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate by update of a run of `steps`: linear warm-up, then constant, or linear or
    cosine to `min_lr`."""
    warmup, horizon = cfg.span(steps)
    rest = max(horizon - warmup, 1)
    after = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, cfg.min_lr, rest),
        "cosine": optax.cosine_decay_schedule(
            cfg.lr, rest, alpha=cfg.min_lr / cfg.lr if cfg.lr else 0.0
        ),
    }[cfg.schedule]
    if not warmup:
        return after
    # The first update already moves: the ramp goes from lr/warmup to lr.
    ramp = optax.linear_schedule(cfg.lr / warmup, cfg.lr, warmup)
    return optax.join_schedules([ramp, after], [warmup])


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


def abstract_state(
    params: dict[str, Any], tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes of `init_state(params, tx)` and where they lie; no memory is used."""

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = x.sharding.spec if x.sharding else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, jax.eval_shape(lambda p: init_state(p, tx), params))


def live_sequences(batch: TrainBatch, beta: float) -> jax.Array:
    """[.., R, g], true where a completion changes the loss: it has tokens that count, and an
    advantage or a pull to the reference. Works on host arrays too."""
    return batch.mask.any(-1) & ((batch.advantages != 0) | (beta > 0))


def live_rows(batch: TrainBatch, beta: float) -> jax.Array:
    """[.., R], true where a row has a live sequence."""
    return live_sequences(batch, beta).any(-1)


def live_order(batch: TrainBatch, cfg: GRPO, shards: int = 1) -> np.ndarray:
    """[R], the rows of a host batch with those that have something to learn before the others,
    within each mini-batch and each of its `shards`; `make_update` leaves out the micro-batches that
    come after them.

    With Bnpo, whose mean depends on how the rows are cut, whole micro-batches change places.
    """
    placement = Placement(cfg.mini_batches, cfg.micro_batches, shards)
    return placement.order(np.asarray(live_rows(batch, cfg.beta)), whole=isinstance(cfg.loss, Bnpo))


def in_order(tree: Any, order_R: np.ndarray) -> Any:
    """Host arrays with their rows in an order; themselves where they are: images are large."""
    if (order_R == np.arange(len(order_R))).all():
        return tree
    return jax.tree.map(lambda x: x[order_R], tree)


def live_first(batch: TrainBatch, cfg: GRPO) -> TrainBatch:
    """A host batch in `live_order`."""
    return in_order(batch, live_order(batch, cfg))


def grpo_objective(
    policy: Policy, cfg: GRPO, length: int | None = None, by_token: bool = False
) -> Callable:
    """Loss of one micro-batch, as its share of the whole batch's loss, and means over its tokens.

    `length` is the most tokens that a completion may have (default: what the batch has room for).
    With `by_token` the stat `TOKEN_GAP` [R, g, C] is the learner's log-probability of every token
    less the sampler's, NaN where the token does not count.
    """

    def objective(params, batch: TrainBatch, whole: TrainBatch, dropout=None, beta=None):
        logps, entropy = policy.logprobs(params, batch, dropout)
        ours = jax.lax.stop_gradient(logps) if batch.own_logps is None else batch.own_logps
        cap = cfg.importance_sampling_cap
        # With one update a rollout the policy that sampled is the policy that learns: ratio 1.
        old = ours if cap is not None or cfg.updates == 1 else batch.old_logps
        correction = None
        if cap is not None:
            correction = truncated_weights(ours, batch.old_logps, cap)
        loss, stats = policy_loss(
            cfg.loss,
            logps,
            old,
            batch.ref_logps,
            batch.advantages,
            batch.mask,
            beta=(cfg.beta if beta is None else beta) if cfg.beta else None,
            kl=cfg.kl,
            correction=correction,
            whole=BatchCounts.of(whole.mask, length),
        )
        mean = functools.partial(_mean, batch.mask)
        signed = logps - batch.old_logps
        gap = jnp.where(batch.mask, jnp.abs(signed), 0.0)
        if by_token:
            stats[TOKEN_GAP] = jnp.where(batch.mask, signed, jnp.nan)
        stats |= {
            "entropy": mean(entropy),
            "sampling/sampling_logp_difference/mean": mean(gap),
            "sampling/sampling_logp_difference/max": gap.max(),
        }
        if correction is not None:
            shown = jnp.where(batch.mask, correction, 0.0)
            stats["sampling/importance_sampling_ratio/mean"] = mean(shown)
            stats["sampling/importance_sampling_ratio/max"] = shown.max()
        return loss, stats

    return objective


def sft_objective(policy: Policy) -> Callable:
    """Negative log-likelihood, a mean over the whole batch's tokens; advantages are not read."""

    def objective(params, batch: TrainBatch, whole: TrainBatch, dropout=None, beta=None):
        logps, entropy = policy.logprobs(params, batch, dropout)
        tokens = jnp.maximum(whole.mask.sum(), 1)
        loss = sft_loss(logps, batch.mask, tokens=tokens)
        return loss, {"entropy": _mean(batch.mask, entropy)}

    return objective


def _mean(mask: jax.Array, x: jax.Array) -> jax.Array:
    """Over the tokens that count."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def any_token(batch: TrainBatch) -> jax.Array:
    """[.., R, g], true where a sequence has tokens that count."""
    return batch.mask.any(-1)


def make_gradient(
    objective: Callable,
    dropout: jax.Array | None = None,
    live: Callable[[TrainBatch], jax.Array] = any_token,
) -> Callable[..., tuple[dict[str, Any], Stats]]:
    """`gradient(state, batch, frozen, beta)` -> the gradient with respect to the state's parameters
    and stats, for use inside of jit. See `make_update` for what all of it is."""

    def gradient(
        state: TrainState,
        batch: TrainBatch,
        frozen: dict[str, Any] | None = None,
        beta: jax.Array | None = None,
    ):
        def loss_of(params, number):
            """The loss of a micro-batch, and its stats as they are added up."""
            piece = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), batch
            )
            key = dropout
            if key is not None:
                key = jax.random.fold_in(jax.random.fold_in(key, state.step), number)
            whole = partition.combine(frozen or {}, params)
            loss, stats = objective(whole, piece, batch, key, beta)
            tokens = piece.mask.sum()
            sums = {n: x if _kept_whole(n, x) else x * tokens for n, x in stats.items()}
            return loss, sums | {"loss": loss, "tokens": tokens}

        def add(number, sofar):
            grads, stats = jax.grad(loss_of, has_aux=True)(state.params, number)
            added = {name: _added(name, sofar[1][name], x, number) for name, x in stats.items()}
            return jax.tree.map(jnp.add, sofar[0], grads), added

        shapes = jax.eval_shape(loss_of, state.params, 0)[1]
        nothing = {name: _begun(x, len(batch.tokens)) for name, x in shapes.items()}
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        grads, stats = jax.lax.fori_loop(0, _needed(live(batch)), add, (zeros, nothing))
        tokens = jnp.maximum(stats.pop("tokens"), 1)
        stats = {name: x if _kept_whole(name, x) else x / tokens for name, x in stats.items()}
        return grads, stats | {"grad_norm": optax.tree.norm(grads)}

    return gradient


def make_update(
    objective: Callable,
    tx: optax.GradientTransformation,
    lr: optax.Schedule,
    dropout: jax.Array | None = None,
    live: Callable[[TrainBatch], jax.Array] = any_token,
) -> jax.stages.Wrapped:
    """The jitted `update(state, batch, frozen, beta)`. Leaves of `batch` have micro-batches in
    front.

    `frozen` holds the parameters that do not train (by default there are none): there is no
    gradient with respect to them, and the state knows nothing of them. `beta` is handed to the
    objective. `dropout` is a key, from which every micro-batch of every update folds its own.

    Micro-batches are gone through and their gradients added: every one is already divided by the
    counts of the whole batch, so the sum is the true mean whatever way the batch is cut. What
    comes after the last micro-batch with a sequence that is `live` is not computed: its gradient is
    zero. `state` is donated. Stats that end in "max" are maxima, the loss is a sum, arrays have the
    micro-batches in front (NaN: not computed), and all others are means over the tokens that were
    gone through.

    Where the loss, the gradient's norm or a parameter that the update would lead to is not finite,
    the state stays as it is to the bit, the optimizer's counts and with them the schedule included,
    and the stat "skipped" is true. A select decides, element by element as the new
    state is written, so that it takes no memory of its own. (`optax.apply_if_finite` sees neither
    loss nor parameters, keeps its counts in the optimizer's state, and after some in a row lets
    what is not finite through.)
    """
    gradient = make_gradient(objective, dropout, live)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(
        state: TrainState,
        batch: TrainBatch,
        frozen: dict[str, Any] | None = None,
        beta: jax.Array | None = None,
    ):
        grads, stats = gradient(state, batch, frozen, beta)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        good = jnp.isfinite(stats["loss"]) & jnp.isfinite(stats["grad_norm"])
        good &= all_finite(params)
        new = TrainState(state.step + 1, params, opt_state)
        new = jax.tree.map(lambda after, before: jnp.where(good, after, before), new, state)
        stats |= {"learning_rate": lr(state.step), "skipped": ~good, "updates": new.step}
        return new, stats

    return update


def _kept_whole(name: str, x: jax.Array) -> bool:
    """Whether a stat is no mean over tokens."""
    return name == "loss" or name.endswith("max") or x.ndim > 0


def _begun(x: jax.ShapeDtypeStruct, count: int) -> jax.Array:
    """A stat before the first of `count` micro-batches, each of which gives it as `x`: arrays are
    NaN for those that are not gone through."""
    if not x.ndim:
        return jnp.zeros((), x.dtype)
    spec = P(None, *x.sharding.spec) if x.sharding else None
    return jnp.full((count, *x.shape), jnp.nan, x.dtype, out_sharding=spec)


def _added(name: str, sofar: jax.Array, x: jax.Array, number: jax.Array) -> jax.Array:
    """A stat with that of micro-batch `number`: arrays [M, ..] are filled, numbers added up."""
    if x.ndim:
        return jax.lax.dynamic_update_index_in_dim(sofar, x, number, 0)
    return jnp.maximum(sofar, x) if name.endswith("max") else sofar + x


def _needed(live_MRg: jax.Array) -> jax.Array:
    """How many micro-batches to go through: up to the last with a live sequence, at least one."""
    M = live_MRg.shape[0]
    live_M = live_MRg.any(axis=tuple(range(1, live_MRg.ndim)))
    return jnp.max(jnp.where(live_M, jnp.arange(M), 0)) + 1


def make_logprobs(policy: Policy) -> jax.stages.Wrapped:
    """Jitted log-probabilities [M, R, g, C] of a batch with micro-batches, no gradient kept."""

    @jax.jit
    def logprobs(params, batch: TrainBatch):
        return jax.lax.map(lambda piece: policy.logprobs(params, piece)[0], batch)

    return logprobs
