# SPDX-License-Identifier: Apache-2.0
"""What a step of reinforcement learning computes, as a config says it: losses and their parameters,
KL, advantages (docs/algorithms.md). They are fields of `jaxvl.config`, and imported from there."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Grpo:
    """GRPO: the mean over sequences of the mean over their tokens, ratios clipped to
    [1 - epsilon, 1 + epsilon_high] (None: epsilon). `delta`, above 1 + epsilon_high, bounds the
    ratio where the advantage is negative too (two-sided clipping; None: it may grow)."""

    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None


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
    """CISPO: no token is clipped away. The ratio, at most `epsilon_high` (not 1 + it), is a weight
    without a gradient; the mean is DAPO's."""

    epsilon_high: float = 5.0


@dataclasses.dataclass(frozen=True)
class Gspo:
    """GSPO: one ratio a sequence, exp of the mean of its tokens' log-ratios; the mean is GRPO's."""

    epsilon: float = 3e-4
    epsilon_high: float | None = 4e-4


Loss = Grpo | DrGrpo | Dapo | Bnpo | Cispo | Gspo


@dataclasses.dataclass(frozen=True)
class AdaptiveKL:
    """After a step with n completions, beta *= 1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon
    (Ziegler et al., 2019)."""

    target: float = 5e-4
    horizon: int = 10_000


@dataclasses.dataclass(frozen=True)
class GRPO:
    """The algorithm. A step takes `prompts` prompts with `group` completions each.

    `group_per_row` completions share one row with their prompt (0: the whole group); it divides
    `group`. A step's prompts are learnt from in `mini_batches` updates one after the other, and
    that `num_iterations` times over; each update goes through `micro_batches` parts of its rows,
    which changes its memory, and the result of Bnpo alone.

    `kl` estimates the divergence from the model the run starts from, whose coefficient in the loss
    is `beta`, or starts there (`adaptive_kl`). Where `beta` is 0 there is no reference.

    Advantages are rewards less the group's mean (`leave_one_out`: the mean of the group's others),
    divided by a standard deviation: the group's, the whole step's or none. With
    `mask_truncated_completions` a completion without an end token counts in those and is not learnt
    from. `dynamic_sampling` is how often at most a step draws `prompts` more, to replace groups
    whose rewards are all equal.

    With an `importance_sampling_cap` tokens are weighted by how much more likely the learner holds
    them than the sampler did, at most that much (truncated importance sampling; None: 1).

    Logits exist for `logprob_chunk` tokens of a row at a time (0: 256, or more where a device has
    fewer than four rows, 1024 tokens of them together). It changes memory and speed.
    """

    prompts: int = 8
    group: int = 8
    group_per_row: int = 0
    mini_batches: int = 1
    micro_batches: int = 1
    num_iterations: int = 1
    loss: Loss = Grpo()
    beta: float = 0.04
    kl: Literal["k1", "k2", "k3"] = "k3"
    adaptive_kl: AdaptiveKL | None = None
    scale_rewards: Literal["group", "batch", "none"] = "group"
    leave_one_out: bool = False
    mask_truncated_completions: bool = False
    dynamic_sampling: int = 0
    importance_sampling_cap: float | None = None
    logprob_chunk: int = 0

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
