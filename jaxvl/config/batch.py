# SPDX-License-Identifier: Apache-2.0
"""What a step's batch is, the same of every kind of run: `Config.batch` and `SFTConfig.batch`."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """How many prompts a step has, how they lie in rows, and how rows are cut into updates."""

    prompts: int  # of a step, all processes together
    group: int  # completions of a prompt
    per_row: int  # completions that share a row with their prompt; they divide the group
    length: int  # tokens that a completion has room for
    mini_batches: int  # parts of a step, an update each
    micro_batches: int  # parts of a mini-batch that its update goes through
    updates: int  # of a step
    logprob_chunk: int  # tokens of a row whose logits exist at a time (0: it is chosen)
    # What counts of rows that hold prompts and targets as one text; None: completions lie beside
    # their prompts.
    whole_rows: Literal["answer", "turn", "all"] | None
    # Where a config says so, for messages:
    part: str  # the part of it that has micro_batches and logprob_chunk
    prompts_field: str
    row_field: str  # the field that makes a row shorter

    @property
    def rows(self) -> int:
        """Rows of a step: prompts * group / per_row."""
        return self.prompts * (self.group // self.per_row)

    @property
    def pieces(self) -> int:
        """Micro-batches of a step."""
        return self.mini_batches * self.micro_batches
