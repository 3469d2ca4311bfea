# SPDX-License-Identifier: Apache-2.0
"""How much of the machine a step has used: its model FLOPs (`flops.py`) by its seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from einops import rearrange

from jaxvl.config import GRPO, Model
from jaxvl.data.prompts import Encoded
from jaxvl.models.arch import Arch
from jaxvl.observe import flops


def work_of(prompts: Sequence[Encoded], lengths_PG: np.ndarray) -> flops.Work:
    """What prompts and completions of so many tokens have to go through."""

    def sizes(numbers: np.ndarray) -> list[int]:
        return np.unique(numbers, return_counts=True)[1].tolist()

    return flops.Work(
        pictures=[size for prompt in prompts for size in sizes(prompt.segments)],
        windows=[size for prompt in prompts for size in sizes(prompt.windows)],
        prompts=[len(prompt.tokens) for prompt in prompts],
        completions=lengths_PG,
    )


class Meter:
    """Counts the FLOPs of a share of a run's rows, one of `shares` of the same size, by the devices
    that work on it, of however many processes. All are taken to be of one kind."""

    def __init__(
        self,
        model: Model,
        arch: Arch,
        devices: Sequence[jax.Device],
        shares: int = 1,
        peak_tflops: float | None = None,
    ):
        self.model, self.arch = model, arch
        mine = [device for device in devices if device.process_index == jax.process_index()]
        self.devices = len(devices) // shares
        known = flops.peak(mine[0].device_kind, model.dtype)
        self.peak = peak_tflops * 1e12 if peak_tflops else known

    def metrics(
        self,
        grpo: GRPO,
        prompts: Sequence[Encoded],
        lengths_N: np.ndarray,
        learnt_P: np.ndarray,
        seconds: Mapping[str, float],
    ) -> dict[str, float]:
        """perf/tflops, 10^12 model FLOP/s of a device over the whole step; and where its peak is
        known perf/mfu, the share of it, and perf/update_mfu, that of the updates' own seconds.

        All prompts went through the sampler and the reference, those in `learnt_P` through the
        updates, each with its completions of `lengths_N` tokens.
        """
        lengths_PG = rearrange(lengths_N, "(P G) -> P G", P=len(prompts))
        sampled = work_of(prompts, lengths_PG)
        learnt = work_of([prompts[p] for p in learnt_P], lengths_PG[learnt_P])
        update = grpo.num_iterations * self._update(learnt)
        recomputed = grpo.importance_sampling_cap is not None and grpo.updates > 1
        passes = 1 + bool(grpo.beta) + recomputed
        return self._rates(update, update + passes * flops.forward(self.arch, sampled), seconds)

    def learning(
        self, prompts: Sequence[Encoded], lengths_N: np.ndarray, seconds: Mapping[str, float]
    ) -> dict[str, float]:
        """The same of a step of fine-tuning: each prompt has one target, and all that is done is to
        learn from it."""
        update = self._update(work_of(prompts, rearrange(lengths_N, "P -> P 1")))
        return self._rates(update, update, seconds)

    def _update(self, learnt: flops.Work) -> float:
        m = self.model
        return flops.update(self.arch, learnt, m.train, m.lora.parts if m.lora else ())

    def _rates(self, update: float, step: float, seconds: Mapping[str, float]) -> dict[str, float]:
        rate = step / seconds["time/total"] / self.devices
        found = {"perf/tflops": rate / 1e12}
        if self.peak:
            found["perf/mfu"] = rate / self.peak
            by = self.devices * self.peak * seconds["time/update"]
            found["perf/update_mfu"] = update / by
        return found
