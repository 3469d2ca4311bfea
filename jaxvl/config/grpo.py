# SPDX-License-Identifier: Apache-2.0
"""What a step of reinforcement learning computes, as a config says it: losses and their parameters,
KL, advantages (docs/algorithms.md). They are fields of `jaxvl.config`, and imported from there."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval


@dataclasses.dataclass(frozen=True)
class Grpo:
    """GRPO: the mean over sequences of the mean over their tokens, ratios clipped."""

    epsilon: Annotated[float, Interval(ge=0, le=1)] = 0.2
    """Ratios below 1 - epsilon are clipped."""
    epsilon_high: Annotated[float, Ge(0)] | None = None
    """Ratios above 1 + epsilon_high are clipped (none: epsilon)."""
    delta: Annotated[float, Gt(1)] | None = None
    """Above 1 + epsilon_high: bounds the ratio where the advantage is negative too, which is
    two-sided clipping (none: it may grow)."""


@dataclasses.dataclass(frozen=True)
class DrGrpo(Grpo):
    """Dr. GRPO: divided by sequences times sampling.max_new_tokens, whatever their lengths are.
    The paper takes it with grpo.scale_rewards=none."""


@dataclasses.dataclass(frozen=True)
class Dapo(Grpo):
    """DAPO: the mean over all tokens of an update, every one of the same weight."""


@dataclasses.dataclass(frozen=True)
class Bnpo(Grpo):
    """The mean over the tokens of a micro-batch, and of these the mean over micro-batches."""


@dataclasses.dataclass(frozen=True)
class Cispo:
    """CISPO: no token is clipped away. The ratio is a weight without a gradient; the mean is
    DAPO's."""

    epsilon_high: Annotated[float, Ge(0)] = 5.0
    """The most that a ratio weighs (not 1 + it)."""


@dataclasses.dataclass(frozen=True)
class Gspo:
    """GSPO: one ratio a sequence, exp of the mean of its tokens' log-ratios; the mean is GRPO's."""

    epsilon: Annotated[float, Interval(ge=0, le=1)] = 3e-4
    """Ratios below 1 - epsilon are clipped."""
    epsilon_high: Annotated[float, Ge(0)] | None = 4e-4
    """Ratios above 1 + epsilon_high are clipped (none: epsilon)."""


Loss = Grpo | DrGrpo | Dapo | Bnpo | Cispo | Gspo


@dataclasses.dataclass(frozen=True)
class AdaptiveKL:
    """After a step with n completions, beta *= 1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon
    (Ziegler et al., 2019)."""

    target: Annotated[float, Gt(0)] = 5e-4
    """The divergence from the reference that beta is steered to."""
    horizon: Annotated[int, Ge(1)] = 10_000
    """Completions over which beta changes by a fifth at most."""


@dataclasses.dataclass(frozen=True)
class GRPO:
    """The algorithm. A step takes `prompts` prompts with `group` completions each, and learns from
    them in `mini_batches` updates one after the other, `num_iterations` times over."""

    prompts: Annotated[int, Ge(1)] = 8
    """Prompts of a step."""
    group: Annotated[int, Ge(2)] = 8  # one completion has no advantage over its group
    """Completions of a prompt."""
    group_per_row: Annotated[int, Ge(0)] = 0
    """Completions that share one row with their prompt (0: the whole group); it divides group."""
    mini_batches: Annotated[int, Ge(1)] = 1
    """Parts of a step that are learnt from one after the other, an update each."""
    micro_batches: Annotated[int, Ge(1)] = 1
    """Parts of its rows that an update goes through; it changes memory, and what Bnpo gives."""
    num_iterations: Annotated[int, Ge(1)] = 1
    """How often a step's mini-batches are gone through."""
    loss: Loss = Grpo()
    """The loss, and its parameters below."""
    beta: Annotated[float, Ge(0)] = 0.04
    """Coefficient of the divergence from the model the run starts from (0: there is none)."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """How that divergence is estimated."""
    adaptive_kl: AdaptiveKL | None = None
    """Steers beta, which then is where it starts."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation of rewards divides advantages."""
    leave_one_out: bool = False
    """Advantages are over the mean of the group's others, not over that of the group."""
    mask_truncated_completions: bool = False
    """A completion without an end token counts in means and deviations, and is not learnt from."""
    dynamic_sampling: Annotated[int, Ge(0)] = 0
    """How often at most a step draws prompts more, to replace groups of equal rewards."""
    importance_sampling_cap: Annotated[float, Gt(0)] | None = None
    """Weights tokens by how much more likely the learner holds them than the sampler did, at most
    so much: truncated importance sampling (none: by 1)."""
    logprob_chunk: Annotated[int, Ge(0)] = 0
    """Tokens of a row whose logits exist at a time; it changes memory and speed (0: 256, or more
    where a device has fewer than four rows, 1024 tokens of them together)."""

    @property
    def rows(self) -> int:
        """Rows of a step's batch: prompts * group / group_per_row."""
        return self.prompts * (self.group // (self.group_per_row or self.group))

    @property
    def pieces(self) -> int:
        """Micro-batches of a step."""
        return self.mini_batches * self.micro_batches

    @property
    def updates(self) -> int:
        """Updates of a step."""
        return self.mini_batches * self.num_iterations

    @property
    def own_logps(self) -> bool:
        """Whether a step makes the policy's log-probabilities before its first update. Where that
        is the only one, it knows them itself."""
        return self.importance_sampling_cap is not None and self.updates > 1
