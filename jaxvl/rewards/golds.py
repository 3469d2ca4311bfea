# SPDX-License-Identifier: Apache-2.0
"""Whether an example's gold answer can earn anything: checks for when data is read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxvl.config import Reward
from jaxvl.data import gold
from jaxvl.data.example import Example
from jaxvl.rewards.columns import choices_of
from jaxvl.rewards.rules import verified
from jaxvl.rewards.shaping import cosine
from jaxvl.rewards.verdict import gold_problem
from jaxvl.rewards.visualthinker import accuracy, accurate
from jaxvl.rewards.vlaa import KINDS, Mixed, verifier_of

# Why a row's gold earns nothing ("" where it does), or None for a row that is not judged.
_Ask = Callable[[Mapping[str, Any]], str | None]


def credit_check(rewards: Sequence[Reward]) -> Callable[[Example], str]:
    """A check of examples: why no reward of a run credits an example's own answer ("" where one
    does), given as a reply in the form that is asked for.

    It asks `accuracy`, `verified`, `cosine` and `Mixed` whose weight is not 0, by rules alone: of
    an open question only that there is an answer. Nothing is known of other functions, which are
    not called; where a run has no others, every answer passes.
    """
    known = [(each.name, _ask_of(each.fn)) for each in rewards if each.weight]
    asks = [(name, ask) for name, ask in known if ask is not None]

    def check(example: Example) -> str:
        row = {**example.columns, "id": example.id}
        row |= {"answer": example.answer, "choices": example.choices}
        found = [(name, ask(row)) for name, ask in asks]
        told = [f"`{name}` ({why})" for name, why in found if why]
        if not told or len(told) < sum(why is not None for _, why in found):
            return ""
        return f"the answer {example.answer!r:.60} earns nothing from {', '.join(told)}"

    return check


def _ask_of(fn: Callable[..., Any]) -> _Ask | None:
    """How to ask a reward function of jaxvl's about a gold; None for any other."""
    how = fn.keywords if isinstance(fn, functools.partial) else {}
    inner = inspect.unwrap(fn.func if isinstance(fn, functools.partial) else fn)
    if isinstance(inner, Mixed):
        return functools.partial(_mixed_problem, inner.only)
    literal = inner is verified and how.get("mode") == "visualthinker"
    if inner is accuracy or literal:
        return _literal_problem
    if inner in (verified, cosine) and "kind" in how:
        return functools.partial(_problem, how["kind"])
    return None


def _problem(kind: str, row: Mapping[str, Any]) -> str:
    right = gold.of_row(row)
    why = gold_problem(kind, right, choices_of(row)) if right else "there is none"
    return f"as a {kind}: {why}" if why else ""


def _literal_problem(row: Mapping[str, Any]) -> str:
    """By the letter of VisualThinker's code, which looks for the tags on one line."""
    right = gold.of_row(row)
    if not right:
        return "there is none"
    tagged = f"<answer>{right}</answer>"
    credited = accurate(f"<think>\nso\n</think>\n{tagged}", tagged)
    return "" if credited else "it does not stand between answer tags on one line"


def _mixed_problem(only: Sequence[str], row: Mapping[str, Any]) -> str | None:
    kind = verifier_of(row)
    if kind not in only:
        return None
    if kind == "open":
        return "" if gold.of_row(row) else "there is none"
    return _problem(KINDS[kind], row)


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
