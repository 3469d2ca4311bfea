# SPDX-License-Identifier: Apache-2.0
"""Tables of what was measured, made from kept results alone: the same results, the same tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxvl.eval.reporting.stats import t95
from miniature_parts.arms import TITLES, Arm
from miniature_parts.runs import Place

FEWEST = 3  # seeds that a part is reported with
COLUMNS = ("pass@1", "pass@64", "entropy", "greedy", "format", "length", "hesitation")


def results(places: Sequence[Place], arms: Sequence[Arm]) -> dict[str, list[dict]]:
    """What was measured of each arm, seed by seed; of the seeds that have all arms."""
    whole = [place for place in places if all(place.results(arm).exists() for arm in arms)]
    return {
        arm.name: [
            json.loads(place.results(arm).read_text()) | {"train": _seconds(place, arm)}
            for place in whole
        ]
        for arm in arms
    }


def _seconds(place: Place, arm: Arm) -> float:
    """Of the arm's runs, those that it shares with others among them."""
    chain = [arm.stages[: n + 1] for n in range(len(arm.stages))]
    files = [place.run(stages) / "seconds" for stages in chain]
    return sum(float(file.read_text()) for file in files if file.exists())


def value(found: dict, column: str) -> float:
    """A column of what was measured; pass@64 is the largest k that there are samples for."""
    at = found["pass_at"]
    if column == "pass@1":
        return at["1"]
    if column == "pass@64":
        return at[max(at, key=int)]
    return found[column]


def interval(values: Sequence[float]) -> str:
    """The mean over seeds with Student's 95% interval."""
    low, high = bounds(values)
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    half = t95(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def tables(part: str, places: Sequence[Place], arms: Sequence[Arm]) -> Iterator[str]:
    """Lines of Markdown about a part."""
    found = results(places, arms)
    count = min(len(rows) for rows in found.values())
    yield f"### {part}. {TITLES[part]}"
    yield ""
    if count < FEWEST:
        yield f"Not run: {count} of at least {FEWEST} seeds are finished."
        yield ""
        return
    yield f"{count} seeds."
    yield ""
    yield "| arm | " + " | ".join(COLUMNS) + " | seconds of training |"
    yield "| --- " * (len(COLUMNS) + 2) + "|"
    for name, rows in found.items():
        cells = [_cell([value(row, column) for row in rows], column) for column in COLUMNS]
        cells.append(f"{np.mean([row['train'] for row in rows]):.0f}")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield from _differences(found)
    if any(f"{name}, RL" in found for name in found):
        yield from _gains(found)


def _cell(values: Sequence[float], column: str) -> str:
    if column in ("pass@1", "greedy"):
        return interval(values)
    return f"{np.mean(values):.1f}" if column == "length" else f"{np.mean(values):.3f}"


def _differences(found: dict[str, list[dict]]) -> Iterator[str]:
    """Each arm against the part's first arm of RL, seed by seed."""
    reference = next((name for name in ("RL alone", "RL") if name in found), next(iter(found)))
    yield f"| difference to {reference} | pass@1 | greedy | |"
    yield "| --- | --- | --- | --- |"
    for name, rows in found.items():
        if name == reference:
            continue
        cells, seen = [], []
        for column in ("pass@1", "greedy"):
            pairs = zip(rows, found[reference], strict=True)
            values = [value(one, column) - value(other, column) for one, other in pairs]
            low, high = bounds(values)
            cells.append(interval(values))
            seen.append("lower" if high < 0 else "higher" if low > 0 else "no difference seen")
        told = seen[0] if seen[0] == seen[1] else f"pass@1: {seen[0]}; greedy: {seen[1]}"
        yield f"| {name} | {' | '.join(cells)} | {told} |"
    yield ""


def _gains(found: dict[str, list[dict]]) -> Iterator[str]:
    """What RL gains after fine-tuning, and what it goes with (H1)."""
    chains = [(name, f"{name}, RL") for name in found if f"{name}, RL" in found]
    befores = [row for name, _ in chains for row in found[name]]
    afters = [row for _, name in chains for row in found[name]]
    gains = [value(b, "pass@1") - value(a, "pass@1") for a, b in zip(befores, afters, strict=True)]
    yield "| before RL | gain in pass@1 by RL |"
    yield "| --- | --- |"
    count = len(befores) // len(chains)
    for at, (name, _) in enumerate(chains):
        yield f"| {name} | {interval(gains[at * count : (at + 1) * count])} |"
    yield ""
    yield "| Spearman's rho with, before RL | gain, runs | gain, arms | pass@1 after RL, runs |"
    yield "| --- | --- | --- | --- |"
    after = [value(row, "pass@1") for row in afters]
    for column in ("pass@64", "entropy", "pass@1"):
        before = [value(row, column) for row in befores]
        by_arm = [np.reshape(of, (len(chains), count)).mean(1) for of in (before, gains)]
        rhos = [spearman(before, gains), spearman(*by_arm), spearman(before, after)]
        yield f"| {column} | " + " | ".join(f"{rho:.2f}" for rho in rhos) + " |"
    yield ""
    yield f"Over {len(gains)} runs and {len(chains)} arms."
    yield ""


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of ranks; 0 where all of one side are equal."""
    from scipy.stats import spearmanr

    if len(set(map(float, one))) == 1 or len(set(map(float, other))) == 1:
        return 0.0
    return float(spearmanr(one, other).statistic)
