# SPDX-License-Identifier: Apache-2.0
"""Marking replies by rules, without a judge. Nothing is guessed: what cannot be read is wrong."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction

from jaxvl.eval.benchmark import Grade, Item
from jaxvl.rewards.kinds import number
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH
from jaxvl.rewards.verdict import Verdict, gold_problem, verify


def by_kind(item: Item, reply: str, mode: str) -> Grade:
    """The verdict of `jaxvl.rewards.verify` for the item's kind; None for a gold that does not
    verify against itself."""
    if _unusable(item.kind, item.gold, item.choices):
        return Grade(None, reason=BAD_GOLD)
    return _mark(verify(item.kind, reply, item.gold, item.choices, mode))


def within(tolerance: Fraction) -> Callable[[Item, str, str], Grade]:
    """`by_kind`, but a number that is at most `tolerance` away from a gold number is right too."""

    def mark(item: Item, reply: str, mode: str) -> Grade:
        found = by_kind(item, reply, mode)
        if found.reason != MISMATCH or item.kind == "text":
            return found
        value, gold = number.read(found.canonical), number.read(item.gold)
        if isinstance(value, str) or isinstance(gold, str) or value.unit:
            return found
        near = abs(value.value - gold.value) <= tolerance
        return Grade(1.0, found.extracted, found.canonical, MATCH) if near else found

    return mark


def any_gold(judge: Callable[[Item, str, str], Grade]) -> Callable[[Item, str, str], Grade]:
    """The best of the marks by `judge` against each of the item's `extra["golds"]`."""

    def mark(item: Item, reply: str, mode: str) -> Grade:
        golds = item.extra["golds"]
        marks = [judge(dataclasses.replace(item, gold=gold), reply, mode) for gold in golds]
        return max(marks, key=lambda one: one.value or 0.0)

    return mark


def _mark(verdict: Verdict) -> Grade:
    return Grade(verdict.reward, verdict.extracted, verdict.canonical, verdict.reason)


@functools.lru_cache(100_000)
def _unusable(kind: str, gold: str, choices: tuple[str, ...]) -> bool:
    return gold_problem(kind, gold, choices) != ""
