# SPDX-License-Identifier: Apache-2.0
"""A rollout's completions on the host: their tokens and their text."""

from __future__ import annotations

import dataclasses

import numpy as np

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
        return np.array([len(ids) for ids in self.ids])


def read_completions(rollout: Rollout, processor: Processor) -> Completions:
    """Texts of a rollout whose arrays are on the host; rows of a prompt are consecutive."""
    C = rollout.tokens.shape[-1]
    tokens_NC, mask_NC = rollout.tokens.reshape(-1, C), rollout.mask.reshape(-1, C)
    ids = [row[mask].tolist() for row, mask in zip(tokens_NC, mask_NC, strict=True)]
    return Completions([processor.decode(row) for row in ids], ids, rollout.finished.reshape(-1))
