# SPDX-License-Identifier: Apache-2.0
"""A rollout's completions on the host: their tokens and their text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange, reduce

from jaxvl.data.prompts import Processor
from jaxvl.errors import UserError
from jaxvl.rl.batch import Rollout


@dataclasses.dataclass(frozen=True)
class Completions:
    """The completions of P prompts, G each, side by side: N = P * G."""

    texts: list[str]
    ids: list[list[int]]
    finished_N: np.ndarray

    @property
    def lengths_N(self) -> np.ndarray:
        """Numbers of tokens."""
        return np.array([len(ids) for ids in self.ids])


def read_completions(rollout: Rollout, processor: Processor) -> Completions:
    """Texts of a rollout whose arrays are on the host; rows of a prompt are consecutive."""
    tokens_NC, mask_NC = (rearrange(x, "R g C -> (R g) C") for x in (rollout.tokens, rollout.mask))
    ids = [row[mask].tolist() for row, mask in zip(tokens_NC, mask_NC, strict=True)]
    finished_N = rearrange(np.asarray(rollout.finished), "R g -> (R g)")
    return Completions([processor.decode(row) for row in ids], ids, finished_N)


def lost_prompts(rollout: Rollout, prompts: int) -> list[int]:
    """Which of `prompts` prompts have a completion whose log-probabilities are not finite: what the
    model makes of it is no distribution, and what was drawn means nothing. A host rollout."""
    finite = np.isfinite(np.where(rollout.mask, rollout.logps, 0.0))
    return np.flatnonzero(~reduce(finite, "(P r) g C -> P", "all", P=prompts)).tolist()


def check_drawn(rollout: Rollout, names: Sequence[Any]) -> None:
    """UserError where a prompt of a host rollout is lost: one a row, of which the first have
    `names`."""
    if lost := lost_prompts(rollout, len(rollout.mask)):
        raise UserError(
            f"prompt {names[lost[0] % len(names)]}: what the model makes of it is no distribution "
            "(NaN): its weights or images are not finite, or its dtype is too narrow for it "
            "(try dtype float32)"
        )
