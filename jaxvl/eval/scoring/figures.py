# SPDX-License-Identifier: Apache-2.0
"""Metrics that several benchmarks have. A reply that nobody can judge counts as wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from jaxvl.eval.benchmark import Metric, Scored


@dataclasses.dataclass(frozen=True)
class Sums:
    """A metric made of sums: `of` gives the numbers that the replies to a cluster with one sample
    number add, and `value` takes their sums. So what the metric would be without a cluster is known
    without another look at all replies."""

    of: Callable[[Sequence[Scored]], tuple[float, ...]]
    value: Callable[..., float | None]

    def totals(self, scored: Sequence[Scored]) -> list[float]:
        """The sums over all clusters."""
        return [sum(column) for column in zip(*map(self.of, by_cluster(scored)), strict=True)]

    def __call__(self, scored: Sequence[Scored]) -> float | None:
        return self.value(*self.totals(scored)) if scored else None


def ratio(part: float, whole: float) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def accuracy(scored: Sequence[Scored]) -> float | None:
    """The mean mark over all replies (the micro average)."""
    return mean(one.mark.value or 0.0 for one in scored)


def share(holds: Callable[[Scored], bool]) -> Sums:
    """The accuracy of the replies that `holds` picks."""

    def of(group: Sequence[Scored]) -> tuple[float, ...]:
        values = [one.mark.value or 0.0 for one in group if holds(one)]
        return sum(values), len(values)

    return Sums(of, ratio)


def among(name: str, *values: str) -> Sums:
    """The accuracy of the items whose group `name` is one of `values`."""
    return share(lambda one: one.item.groups.get(name) in values)


def macro(name: str) -> Metric:
    """The mean over the values of the group `name` of their accuracies."""

    def metric(scored: Sequence[Scored]) -> float | None:
        parts: dict[str, list[float]] = {}
        for one in scored:
            parts.setdefault(one.item.groups[name], []).append(one.mark.value or 0.0)
        return mean(sum(part) / len(part) for part in parts.values())

    return metric


def by_cluster(scored: Sequence[Scored]) -> list[list[Scored]]:
    """The replies to items of one cluster with the same sample number, for each."""
    found: dict[tuple[str, int], list[Scored]] = {}
    for one in scored:
        found.setdefault((one.item.cluster or one.item.id, one.sample), []).append(one)
    return list(found.values())


def right(group: Sequence[Scored]) -> float:
    """1.0 where every reply is right."""
    return float(all(one.mark.value == 1 for one in group))


# The share of clusters in which every reply is right.
all_right = Sums(lambda group: (right(group), 1), ratio)
