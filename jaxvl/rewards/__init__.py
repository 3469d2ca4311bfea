# SPDX-License-Identifier: Apache-2.0
"""Rewards: functions from completions to numbers, on the host, without jax.

A reward function has TRL's signature, `fn(prompts, completions, completion_ids, **columns)`, with
one item a completion in every argument, and returns a float for each (None: does not apply).
Names are loaded when they are first used, so that a worker process starts at once.
"""

from __future__ import annotations

import enum
import importlib
from typing import Any

_HOME = {
    "verify": "verdict",
    "Verdict": "verdict",
    "gold_problem": "verdict",
    "verified": "rules",
    "Mixed": "vlaa",
    "accuracy": "visualthinker",
    "think_format": "visualthinker",
    "length": "visualthinker",
    "soft_overlong": "shaping",
    "cosine": "shaping",
    "repetition": "shaping",
    "judged": "judge",
    "ChatJudge": "judge",
    "RewardEndpoint": "judge",
    "LocalJudge": "judge",
    "score": "mix",
    "Scores": "mix",
}
# Those of them that are rewards: what the command line may name.
FUNCTIONS = (
    "accuracy",
    "think_format",
    "length",
    "verified",
    "Mixed",
    "judged",
    "soft_overlong",
    "cosine",
    "repetition",
)
__all__ = ["FUNCTIONS", "MASKED", "completion_text", *_HOME]


class _Mark(enum.Enum):
    MASKED = "masked"


# What a reward function returns for a completion that the step is to be made without.
MASKED = _Mark.MASKED


def completion_text(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion: itself, or the content of its last message where it is a chat."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
