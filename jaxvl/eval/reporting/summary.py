# SPDX-License-Identifier: Apache-2.0
"""What a report says of one model on one benchmark: figures with intervals, baselines, behaviour.

A reply that nobody can mark (no usable gold) counts as wrong, and is counted apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvl.errors import UserError
from jaxvl.eval.benchmark import BenchmarkSpec, Item, Metric, Scored
from jaxvl.eval.engines.predictions import Line
from jaxvl.eval.reporting import stats
from jaxvl.eval.scoring import behaviour
from jaxvl.eval.scoring.figures import Sums
from jaxvl.eval.tasks import Task, cluster
from jaxvl.rewards import extract
from jaxvl.rewards.reasons import CRASH, TIMEOUT

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COMMON = 5  # golds that are tried as a constant answer


def results(
    task: Task,
    scored: Mapping[str, Sequence[Scored]],
    lines: Sequence[Line],
    judged: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All figures of a task; `scored` holds its replies in each mode, `lines` as predictions."""
    first = next(iter(scored.values()))
    answered = {one.item.id for one in first}
    samples = max(one.sample for one in first) + 1
    expected = len(task.items) * samples
    texts = [line["text"] for line in lines]
    clusters = [cluster(one.item) for one in first]
    valid = [extract.blocks(extract.reply(text)) is not None for text in texts]
    truncated = [line["finish_reason"] == "length" for line in lines]
    chance, constant = baselines(task.benchmark, task.items)
    return {
        "items": len(task.items),
        "answered": len(answered),
        "replies": len(first),
        "samples": samples,
        "missing": expected - len(first),
        "partial": len(first) < expected,
        "format": stats.proportion(valid, clusters),
        "truncated": stats.proportion(truncated, clusters),
        "chance": chance,
        "majority": constant,
        "detectable": stats.detectable_pairs(len(set(clusters))),
        "modes": {mode: _mode(task.benchmark, of) for mode, of in scored.items()},
        "letters": letters(scored["lenient"]),
        "length": behaviour.lengths(scored["lenient"], lines),
        "repetitive": behaviour.repetitive(texts),
        "words": behaviour.words(texts),
        "judge": _judge(task.benchmark, scored["lenient"], judged),
    }


def _mode(benchmark: BenchmarkSpec, scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures that depend on how strictly replies are read."""
    count = len(scored)
    unread = sum(one.mark.value is not None and not one.mark.canonical for one in scored)
    reasons = Counter(one.mark.reason for one in scored)
    return {
        "accuracy": _rate(_rated(benchmark, scored)),
        "metrics": _metrics(benchmark, scored),
        "groups": _groups(benchmark, scored),
        "unparsed": unread / count,
        "unscorable": sum(one.mark.value is None for one in scored) / count,
        "timeouts": reasons[TIMEOUT] + reasons[CRASH],
        "reasons": dict(sorted(reasons.items())),
        "sampled": _sampled(scored),
    }


def _metrics(benchmark: BenchmarkSpec, scored: Sequence[Scored]) -> dict[str, stats.Estimate]:
    """The benchmark's own figures."""
    clusters = list(_by(scored, lambda one: cluster(one.item)).values())
    alike = [_alike(members, benchmark.reads_reasons) for members in clusters]
    return {
        name: _estimate(metric, scored, clusters, alike)
        for name, metric in benchmark.metrics.items()
    }


def _estimate(
    metric: Metric,
    scored: Sequence[Scored],
    clusters: Sequence[Sequence[Scored]],
    alike_K: Sequence[str],
) -> stats.Estimate:
    """A metric with its interval: Wilson's where it is a share, of all marks, of all that are known
    or of clusters; else from a cluster bootstrap.

    It has no value where it is None, and where it refuses incomplete data (UserError).
    """
    unknown = stats.Estimate(None, -math.inf, math.inf, len(scored))
    try:
        value = metric(scored)
        for part in (scored, [one for one in scored if one.mark.value is not None]):
            rate = _rate(part)
            if value is not None and rate.value is not None and abs(value - rate.value) < 1e-12:
                return rate
        if isinstance(metric, Sums):
            sums_K = [metric.totals(members) for members in clusters]
            value, influence_K = stats.influence_of_sums(metric.value, sums_K)
        else:
            value, influence_K = stats.influence(metric, clusters, alike_K)
        if value is None or influence_K is None:
            return dataclasses.replace(unknown, value=value)
        units = _units(metric, clusters, alike_K, value, influence_K)
    except UserError:
        return unknown
    if units:
        return stats.Estimate(value, *stats.wilson(value, units), len(scored))
    found = stats.bootstrap(value, influence_K, len(scored))
    # A share is never below 0 or above 1, which a resample to first order does not know.
    return _within(found)


def _units(
    metric: Metric,
    clusters: Sequence[Sequence[Scored]],
    alike_K: Sequence[str],
    value: float,
    influence_K: np.ndarray,
) -> float | None:
    """Of how many equal units a metric is the share, None where it is no share of clusters.

    A share of clusters has the influences 0 - value and 1 - value. Where all agree none has any:
    then it is one over the most that a single cluster changes by taking the other value.
    """
    if influence_K.any():
        shares_K = influence_K + value
        whole = np.isclose(shares_K, 0, atol=1e-9) | np.isclose(shares_K, 1, atol=1e-9)
        return float(len(clusters)) if whole.all() else None
    if value not in (0.0, 1.0):
        return None
    changes: dict[str, float] = {}
    for at, (key, members) in enumerate(zip(alike_K, clusters, strict=True)):
        if key not in changes:
            flipped = [
                dataclasses.replace(one, mark=dataclasses.replace(one.mark, value=1.0 - value))
                for one in members
            ]
            others = [*clusters[:at], flipped, *clusters[at + 1 :]]
            found = metric([one for of in others for one in of])
            changes[key] = 0.0 if found is None else abs(found - value)
    return 1 / max(changes.values()) if any(changes.values()) else None


def _rate(scored: Sequence[Scored]) -> stats.Estimate:
    """The mean mark; one that nobody could give counts as 0."""
    values = [one.mark.value or 0.0 for one in scored]
    return stats.proportion(values, [cluster(one.item) for one in scored])


def _alike(members: Sequence[Scored], reasons: bool) -> str:
    """Equal for clusters that are alike to a metric, see `BenchmarkSpec`."""

    def seen(one: Scored) -> list[Any]:
        reason = one.mark.reason if reasons else ""
        return [one.mark.value, reason, dict(one.item.groups), dict(one.item.extra)]

    samples = _by(members, lambda one: one.sample).values()
    return "\n".join(
        sorted(json.dumps([seen(one) for one in of], sort_keys=True, default=str) for of in samples)
    )


def _rated(benchmark: BenchmarkSpec, scored: Sequence[Scored]) -> Sequence[Scored]:
    """The marks that a rate is of."""
    return scored if benchmark.none_is_wrong else [o for o in scored if o.mark.value is not None]


def _groups(
    benchmark: BenchmarkSpec, scored: Sequence[Scored]
) -> dict[str, dict[str, stats.Estimate]]:
    """Accuracy by each group of each breakdown."""
    names = dict.fromkeys(name for one in scored for name in one.item.groups)
    found: dict[str, dict[str, stats.Estimate]] = {}
    for name in names:
        groups = _grouped(scored, name)
        found[name] = {g: _rate(_rated(benchmark, groups[g])) for g in sorted(groups)}
    return found


def _grouped(scored: Sequence[Scored], name: str) -> dict[str, list[Scored]]:
    """Those that are in a group of a breakdown, by the group."""
    named = [one for one in scored if name in one.item.groups]
    return _by(named, lambda one: one.item.groups[name])


def _within(found: stats.Estimate) -> stats.Estimate:
    """The estimate of a share, its interval ended at 0 and 1."""
    return dataclasses.replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def _sampled(scored: Sequence[Scored]) -> dict[str, Any]:
    """pass@k and maj@k for k = 1, 2, 4, .. and n, of items with all n samples; {} for n = 1.

    Answers that are right are one answer; others are where their canonical forms are equal, and a
    reply without one does not vote.
    """
    by_item = _by(scored, lambda one: one.item.id)
    n = max(len(of) for of in by_item.values())
    whole = [of for of in by_item.values() if len(of) == n]
    if n < 2:
        return {}
    clusters = [cluster(of[0].item) for of in whole]
    right = [sum(one.mark.value == 1.0 for one in of) for of in whole]
    votes = [
        Counter(one.mark.canonical for one in of if one.mark.value != 1.0 and one.mark.canonical)
        for of in whole
    ]
    sizes = [tuple(sorted(of.values())) for of in votes]
    ks = sorted({k for k in itertools.takewhile(lambda k: k <= n, (2**i for i in range(20)))} | {n})
    passed, voted = {}, {}
    for k in ks:
        passed[k] = _within(stats.mean([stats.pass_at_k(n, c, k) for c in right], clusters))
        most = [
            stats.majority_at_k(c, wrong, n - c - sum(wrong), k)
            for c, wrong in zip(right, sizes, strict=True)
        ]
        voted[k] = _within(stats.mean(most, clusters))
    means = [sum(one.mark.value or 0.0 for one in of) / n for of in whole]
    average = _within(stats.mean(means, clusters))
    return {"n": n, "items": len(whole), "avg": average, "pass": passed, "majority": voted}


def baselines(benchmark: BenchmarkSpec, items: Sequence[Item]) -> tuple[float | None, dict | None]:
    """What needs no image: the accuracy of a random choice, and that of the best constant answer.

    Items without choices are never guessed. The constant answers tried are the letters, marked by
    the benchmark's own rule, and the commonest golds. None where the benchmark has no golds.
    """
    if not items or not any(item.gold for item in items):
        return None, None
    count = len(items)
    chance = sum(1 / len(item.choices) for item in items if item.choices) / count
    lettered = [item for item in items if item.kind == "mcq"]
    golds = Counter(item.gold for item in items if item.gold)
    hits: dict[str, float] = {}
    for letter in _LETTERS[: max((len(item.choices) for item in lettered), default=0)]:
        reply = f"<answer>{letter}</answer>"
        hits[letter] = sum(benchmark.mark(item, reply, "strict").value or 0.0 for item in lettered)
    for gold, times in golds.most_common(_COMMON):
        hits[gold] = max(hits.get(gold, 0.0), float(times))
    best = max(sorted(hits), key=hits.__getitem__)
    return (chance or None), {"answer": best, "value": hits[best] / count}


def letters(scored: Sequence[Scored]) -> dict[str, dict[str, int]]:
    """How often each letter was said, and how often it is right, among questions with letters."""
    lettered = [one for one in scored if one.item.kind == "mcq"]
    said = Counter(one.mark.canonical for one in lettered if one.mark.canonical in _ONE)
    right = Counter(_gold_letter(one.item) for one in lettered)
    names = sorted((set(said) | set(right)) - {""})
    return {name: {"said": said[name], "right": right[name]} for name in names}


_ONE = frozenset(_LETTERS)


def _gold_letter(item: Item) -> str:
    """The letter of the right option, "" where there is not exactly one."""
    bare = item.gold.strip("() .")
    if bare in _ONE:
        return bare
    places = [at for at, choice in enumerate(item.choices) if choice.strip() == item.gold.strip()]
    return _LETTERS[places[0]] if len(places) == 1 else ""


def _judge(
    benchmark: BenchmarkSpec, scored: Sequence[Scored], judged: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each judge its mean verdict, on the replies that it gave one on, how often the rules
    agree where they give one, and the metrics and groups that come of its verdicts in place of the
    rules'."""
    rules = {(one.item.id, one.sample): one for one in scored}
    found = {}
    for name, rows in _by(judged, lambda row: row["judge"]).items():
        values = {(row["id"], row["sample"]): row["value"] for row in rows}
        values = {key: value for key, value in values.items() if key in rules}
        clusters = [cluster(rules[key].item) for key in values]
        ruled = {key: mark for key in values if (mark := rules[key].mark.value) is not None}
        agreed = [(mark >= 0.5) == (values[key] >= 0.5) for key, mark in ruled.items()]
        # Where a reply without a mark is in no rate, metrics may still look at what it is.
        seen = values if benchmark.none_is_wrong else rules
        marks = {k: dataclasses.replace(rules[k].mark, value=values.get(k)) for k in seen}
        by_judge = [dataclasses.replace(rules[key], mark=mark) for key, mark in marks.items()]
        found[name] = {
            "replies": len(values),
            "missing": len(scored) - len(values),
            "accuracy": stats.proportion(list(values.values()), clusters),
            "agreement": stats.proportion(agreed, [cluster(rules[key].item) for key in ruled]),
            "metrics": _metrics(benchmark, by_judge),
            "groups": _groups(benchmark, by_judge),
        }
    return found


def _by(members: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list]:
    """Members in lists by key, in the order they appear."""
    found: dict[Any, list] = {}
    for member in members:
        found.setdefault(key(member), []).append(member)
    return found
