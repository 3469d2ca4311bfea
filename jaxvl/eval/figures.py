# SPDX-License-Identifier: Apache-2.0
"""Metrics that several benchmarks have. A reply that nobody can judge counts as wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxvl.eval.benchmark import Metric, Scored


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def accuracy(scored: Sequence[Scored]) -> float | None:
    """The mean mark over all replies (the micro average)."""
    return mean(one.mark.value or 0.0 for one in scored)


def among(name: str, *values: str) -> Metric:
    """The accuracy of the items whose group `name` is one of `values`."""

    def metric(scored: Sequence[Scored]) -> float | None:
        return accuracy([one for one in scored if one.item.groups.get(name) in values])

    return metric


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


def all_right(scored: Sequence[Scored]) -> float | None:
    """The share of clusters in which every reply is right."""
    return mean(float(all(one.mark.value == 1 for one in group)) for group in by_cluster(scored))
