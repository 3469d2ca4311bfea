# SPDX-License-Identifier: Apache-2.0
"""A rollout's completions on the host: their tokens and their text."""

from __future__ import annotations

import dataclasses

import numpy as np
from einops import rearrange

from jaxvl.data.prompts import Processor
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
