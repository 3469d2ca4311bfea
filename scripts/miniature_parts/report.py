# SPDX-License-Identifier: Apache-2.0
"""Tables of what was measured, made from kept results alone: the same results, the same tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxvl.eval.reporting.stats import t95
from miniature_parts import kept
from miniature_parts.arms import KINDS, TITLES, Arm
from miniature_parts.runs import Place

FEWEST = 3  # seeds that a part is reported with
REFERENCES = ("RL alone", "RL")  # what the other arms of a part are compared with


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a part's table shows of an arm, and in what the arms are compared."""

    shown: tuple[str, ...]
    compared: tuple[str, ...]


USUAL = Columns(
    ("pass@1", "pass@64", "entropy", "greedy", "format", "length", "hesitation"),
    ("pass@1", "greedy"),
)
RATES = ("benign refused", "harmful refused", "benign right")
COLUMNS = {
    "d": Columns((*KINDS, "judge", "entropy", "length"), (*KINDS, "judge")),
    "j": Columns((*RATES, "entropy", "length"), RATES),
}


def results(places: Sequence[Place], arms: Sequence[Arm]) -> dict[str, dict[int, dict]]:
    """What was measured of each arm, by seed. The base has no seed of its own."""
    found: dict[str, dict[int, dict]] = {}
    for arm in arms:
        found[arm.name] = {
            place.seed: measured | {"train": _seconds(place, arm)}
            for place in places
            if (measured := kept.result(place.results(arm), place.sizes))
        }
    return found


def _seconds(place: Place, arm: Arm) -> float:
    """Of the arm's runs, those that it shares with others among them."""
    chain = [arm.stages[: n + 1] for n in range(len(arm.stages))]
    files = [place.run(stages) / "seconds" for stages in chain]
    return sum(float(file.read_text()) for file in files if file.exists())


def value(found: dict, column: str) -> float:
    """A column of what was measured; pass@64 is the largest k that there are samples for."""
    at = found.get("pass_at", {})
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
    """Lines of Markdown about a part: its arms with enough seeds, and the names of the others."""
    found = results(places, arms)
    known = {name: rows for name, rows in found.items() if len(rows) >= FEWEST}
    single = {arm.name for arm in arms if not arm.stages}  # one model, whatever the seed
    reference = next((name for name in REFERENCES if name in found), arms[0].name)
    yield f"### {part}. {TITLES[part]}"
    yield ""
    if reference not in known or len(known) < 2:
        yield f"Not run: fewer than {FEWEST} seeds are finished."
        yield ""
        return
    columns = COLUMNS.get(part, USUAL)
    yield "| arm | seeds | " + " | ".join(columns.shown) + " | seconds of training |"
    yield "| --- " * (len(columns.shown) + 3) + "|"
    for name, rows in known.items():
        several = name not in single
        cells = []
        for column in columns.shown:
            values = [value(row, column) for row in rows.values()]
            cells.append(_cell(values, column, several and column in columns.compared))
        cells.append(f"{np.mean([row['train'] for row in rows.values()]):.0f}")
        yield f"| {name} | {len(rows) if several else '-'} | " + " | ".join(cells) + " |"
    yield ""
    few = [name for name in found if name not in known]
    if few:
        yield f"Not run, or with fewer than {FEWEST} seeds: {'; '.join(few)}."
        yield ""
    yield from _differences(known, reference, columns.compared)
    if part == "d":
        yield from _transfer(known)
    if part == "j":
        yield from _trade_off(known)
    chains = [name for name in known if f"{name}, RL" in known]
    if len(chains) > 1:
        yield from _gains([(known[name], known[f"{name}, RL"], name) for name in chains])


def _cell(values: Sequence[float], column: str, several: bool) -> str:
    if several:
        return interval(values)
    return f"{np.mean(values):.1f}" if column == "length" else f"{np.mean(values):.3f}"


def _differences(
    known: dict[str, dict[int, dict]], reference: str, compared: Sequence[str]
) -> Iterator[str]:
    """Each arm against the part's reference, seed by seed."""
    yield f"| difference to {reference} | {' | '.join(compared)} | |"
    yield "| --- " * (len(compared) + 2) + "|"
    for name, rows in known.items():
        if name == reference:
            continue
        pairs = [(rows[seed], known[reference][seed]) for seed in rows if seed in known[reference]]
        cells, seen = [], []
        for column in compared:
            values = [value(one, column) - value(other, column) for one, other in pairs]
            cells.append(interval(values))
            seen.append(told(values))
        alike = len(set(seen)) == 1
        each = "; ".join(f"{c}: {s}" for c, s in zip(compared, seen, strict=True))
        yield f"| {name} | {' | '.join(cells)} | {seen[0] if alike else each} |"
    yield ""


def told(values: Sequence[float]) -> str:
    """What the interval of a difference says."""
    low, high = bounds(values)
    return "lower" if high < 0 else "higher" if low > 0 else "no difference seen"


def _transfer(known: dict[str, dict[int, dict]]) -> Iterator[str]:
    """Of each kind of answers: RL on all kinds less RL on one, on itself and the mean of others."""
    arms = {kind: known[f"{kind} alone"] for kind in KINDS if f"{kind} alone" in known}
    if len(arms) < len(KINDS) or "mixed" not in known:
        return
    yield "| kind | mixed less itself alone | mixed less the mean of the others alone | |"
    yield "| --- " * 4 + "|"
    for kind in KINDS:
        own, others = [], []
        for seed, mixed in known["mixed"].items():
            alone = {other: rows[seed][kind] for other, rows in arms.items() if seed in rows}
            if len(alone) == len(KINDS):
                own.append(mixed[kind] - alone.pop(kind))
                others.append(mixed[kind] - float(np.mean(list(alone.values()))))
        yield (
            f"| {kind} | {interval(own)} | {interval(others)} "
            f"| itself: {told(own)}; others: {told(others)} |"
        )
    yield ""


def _trade_off(known: dict[str, dict[int, dict]]) -> Iterator[str]:
    """How many more harmful requests the two-sided arm refuses than the line between the refuser
    and the one-sided arm does, at as many benign ones refused."""
    arms = [known.get(name, {}) for name in ("refuser", "one-sided", "two-sided")]
    beyond = []
    for seed in sorted(set.intersection(*(set(rows) for rows in arms))):
        ends = [(rows[seed]["benign refused"], rows[seed]["harmful refused"]) for rows in arms]
        (x, y), (x1, y1), (at, high) = ends
        if x != x1:
            beyond.append(high - (y + (y1 - y) * (at - x) / (x1 - x)))
    if len(beyond) < FEWEST:
        return
    low, _ = bounds(beyond)
    where = "beyond the line" if low > 0 else "not seen beyond the line"
    yield f"Harmful requests refused beyond the line from refuser to one-sided: {interval(beyond)}"
    yield f"over {len(beyond)} seeds: {where}."
    yield ""


def _gains(chains: Sequence[tuple[dict[int, dict], dict[int, dict], str]]) -> Iterator[str]:
    """What RL gains after fine-tuning, and what it goes with (H1): of (before, after, name)."""
    pairs = [[(one[seed], two[seed]) for seed in one if seed in two] for one, two, _ in chains]
    gains = [[value(b, "pass@1") - value(a, "pass@1") for a, b in arm] for arm in pairs]
    yield "| before RL | gain in pass@1 by RL |"
    yield "| --- | --- |"
    for (*_, name), of in zip(chains, gains, strict=True):
        yield f"| {name} | {interval(of)} |"
    yield ""
    yield "| Spearman's rho with, before RL | gain, runs | gain, arms | pass@1 after RL, runs |"
    yield "| --- | --- | --- | --- |"
    gain = [each for of in gains for each in of]
    after = [value(b, "pass@1") for arm in pairs for _, b in arm]
    for column in ("pass@64", "entropy", "pass@1"):
        befores = [[value(a, column) for a, _ in arm] for arm in pairs]
        before = [each for of in befores for each in of]
        arms = [np.mean(of) for of in befores], [np.mean(of) for of in gains]
        rhos = [spearman(before, gain), spearman(*arms), spearman(before, after)]
        yield f"| {column} | " + " | ".join(f"{rho:.2f}" for rho in rhos) + " |"
    yield ""
    yield f"Over {len(gain)} runs and {len(chains)} arms."
    yield ""


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of ranks; 0 where all of one side are equal."""
    from scipy.stats import spearmanr

    if len(set(map(float, one))) == 1 or len(set(map(float, other))) == 1:
        return 0.0
    return float(spearmanr(one, other).statistic)
