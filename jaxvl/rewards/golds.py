# SPDX-License-Identifier: Apache-2.0
"""Whether an example's gold answer verifies against itself: a check for when data is loaded."""

from __future__ import annotations

from jaxvl.data.example import Example
from jaxvl.rewards.verdict import gold_problem
from jaxvl.rewards.vlaa import KINDS, verifier_of


def gold_check(example: Example) -> str:
    """Why an example's answer cannot be verified against ("" where it can): for `data.check`.

    The kind is that of its column `verifier_type`, or a choice where it has choices; other answers
    are open, and nothing is said about them. UserError for a verifier type that is none: all rows
    of a set may have it, and no reward could be given.
    """
    declared = example.columns.get("verifier_type")
    if declared:
        kind = KINDS.get(verifier_of({"id": example.id, "verifier_type": declared}))
    else:
        kind = "mcq" if example.choices else None
    if kind is None:
        return ""
    why = gold_problem(kind, example.answer, example.choices)
    found = f"as a {kind} the answer {example.answer!r:.60} does not verify against itself"
    return f"{found}: {why}" if why else ""
