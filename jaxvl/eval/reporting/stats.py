# SPDX-License-Identifier: Apache-2.0
"""Statistics of evaluations: intervals, tests of two models, sampled answers. Pure.

N values belong to K clusters (questions about one image, samples of one question): what is drawn
together is resampled together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Z95, Z80 = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
RESAMPLES = 10_000
_AT_ONCE = 2_000_000  # draws in memory


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, seen in `count` replies; of none there is no figure."""

    value: float | None
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t95(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution."""
    from scipy import special  # where it is used: importing it takes half a second

    return float(special.stdtrit(freedom, 0.975))


def wilson(p: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion `p` seen in `count` independent trials.

    The count of correlated values is an effective one, no whole number, which scipy's interval
    (`binomtest(..).proportion_ci`) does not take; where it does the two are equal.
    """
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def sums(values_N: Sequence[float], clusters_N: Sequence[Hashable]) -> tuple[np.ndarray, ...]:
    """Sum and number of the values of each cluster, [K] and [K], in the order they appear."""
    number: dict[Hashable, int] = {}
    index_N = np.array([number.setdefault(name, len(number)) for name in clusters_N], int)
    sum_K = np.bincount(index_N, np.asarray(values_N, float), len(number))
    return sum_K, np.bincount(index_N, None, len(number))


def rate(values_N: Sequence[float], clusters_N: Sequence[Hashable]) -> Estimate:
    """The mean of values in [0, 1] with an interval that knows which of them are kin.

    Values of one cluster are not independent, so Wilson's interval is taken for the number of
    independent values that would give the standard error seen between clusters (the linearised one
    of cluster samples), at most all of them, and with Student's quantile, for that error is itself
    known from so many clusters only. Where all values agree it says nothing, and a cluster counts
    as one value.
    """
    sum_K, count_K = sums(values_N, clusters_N)
    clusters, total = len(count_K), int(count_K.sum())
    if not total:
        return Estimate(None, 0.0, 1.0, 0)
    p = float(sum_K.sum() / total)
    independent, z = float(clusters), Z95
    if clusters > 1 and 0 < p < 1:
        z = t95(clusters - 1) if clusters < total else Z95
        residual_K = sum_K - p * count_K
        variance = clusters / (clusters - 1) * float((residual_K**2).sum()) / total**2
        independent = min(p * (1 - p) / variance, total) if variance else total
    return Estimate(p, *wilson(p, independent, z), total)


def proportion(values_N: Sequence[float], clusters_N: Sequence[Hashable]) -> Estimate:
    """`rate`, and Wilson's own interval where values are 0 or 1 and each is a cluster."""
    found = rate(values_N, clusters_N)
    alone = len(set(clusters_N)) == found.count and set(values_N) <= {0, 1}
    if found.value is None or not alone:
        return found
    return Estimate(found.value, *wilson(found.value, found.count), found.count)


def influence_of_mean(
    values_N: Sequence[float], clusters_N: Sequence[Hashable]
) -> tuple[float, np.ndarray]:
    """The mean, and what each cluster does to it: influences [K] whose own mean is 0."""
    sum_K, count_K = sums(values_N, clusters_N)
    mean = float(sum_K.sum() / count_K.sum())
    return mean, len(count_K) / count_K.sum() * (sum_K - mean * count_K)


def influence(
    statistic: Callable[[Sequence[Any]], float | None],
    clusters: Sequence[Sequence[Any]],
    alike_K: Sequence[Hashable] | None = None,
) -> tuple[float | None, np.ndarray | None]:
    """A statistic of all members of all clusters, and each cluster's influence on it, [K].

    The influence is K - 1 times what changes when the cluster is left out (the jackknife's). Of
    clusters with the same key in `alike_K` one is left out for all of them. None where the
    statistic has no value, or none without some cluster.
    """
    members = [member for cluster in clusters for member in cluster]
    value = statistic(members) if members else None
    if value is None or len(clusters) < 2:
        return value, None
    known: dict[Hashable, float | None] = {}
    influence_K = np.empty(len(clusters))
    start = 0
    for at, cluster in enumerate(clusters):
        stop = start + len(cluster)
        key = alike_K[at] if alike_K else at
        if key not in known:
            known[key] = statistic(members[:start] + members[stop:])
        without = known[key]
        if without is None:
            return value, None
        influence_K[at] = (len(clusters) - 1) * (value - without)
        start = stop
    return value, influence_K


def influence_of_sums(
    value: Callable[..., float | None], sums_K: Sequence[Sequence[float]]
) -> tuple[float | None, np.ndarray | None]:
    """`influence` of a statistic `value` of the sums of what the clusters add."""
    total = [sum(column) for column in zip(*sums_K, strict=True)]
    whole = value(*total)
    if whole is None or len(sums_K) < 2:
        return whole, None
    without_K = [value(*(a - b for a, b in zip(total, of, strict=True))) for of in sums_K]
    if None in without_K:
        return whole, None
    return whole, (len(sums_K) - 1) * (whole - np.array(without_K))


def bootstrap(
    value: float, influence_K: np.ndarray, count: int, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The percentile interval of a statistic over resampled clusters, widened from their spread
    among K drawn to Student's quantile of K - 1.

    A resample's statistic is `value` plus the mean influence of the K clusters that were drawn with
    replacement. For means, and for sums of means of strata, that is the stratified cluster
    bootstrap itself to a factor of (n - 1) / n in a stratum of n; for other smooth statistics it is
    their bootstrap to first order (Efron's infinitesimal form). No cluster is ever in a sample
    twice, so that a statistic may tell clusters apart by their names.
    """
    rng = np.random.default_rng(seed)
    clusters = len(influence_K)
    step = max(1, _AT_ONCE // clusters)
    draws = np.empty(resamples)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        chosen = rng.integers(0, clusters, (stop - start, clusters), dtype=np.int32)
        draws[start:stop] = value + influence_K[chosen].mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    if clusters > 1:
        wider = t95(clusters - 1) / Z95 * math.sqrt(clusters / (clusters - 1))
        low, high = value - wider * (value - low), value + wider * (high - value)
    return Estimate(value, float(low), float(high), count)


def mean(values_N: Sequence[float], clusters_N: Sequence[Hashable]) -> Estimate:
    """The mean of any values with its cluster bootstrap interval."""
    if not len(values_N):
        return Estimate(None, -math.inf, math.inf, 0)
    value, influence_K = influence_of_mean(values_N, clusters_N)
    return bootstrap(value, influence_K, len(values_N))


def standard_error(values_N: Sequence[float], clusters_N: Sequence[Hashable]) -> float:
    """The linearised standard error of the mean of clustered values; NaN for one cluster."""
    _, influence_K = influence_of_mean(values_N, clusters_N)
    clusters = len(influence_K)
    if clusters < 2:
        return math.nan
    return math.sqrt(float((influence_K**2).sum()) / (clusters * (clusters - 1)))


def mcnemar(wins: int, losses: int) -> float:
    """The exact two-sided p of McNemar's test on discordant pairs."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def of_mean(mean: float, error: float, clusters: int) -> float | None:
    """The two-sided p of a mean being 0, from its standard error, which is itself known from so
    many clusters (`standard_error`): Student's test. None where the error is not known."""
    from scipy import special

    if math.isnan(error):
        return None
    if not error:
        return float(mean == 0)
    return float(2 * special.stdtr(clusters - 1, -abs(mean) / error))


def wilcoxon(differences_N: Sequence[float]) -> float:
    """The two-sided p of the signed-rank test, zeros ranked and then left out (Pratt 1959).

    The normal approximation with the correction for ties, without one for continuity.
    """
    from scipy import stats

    if not np.any(differences_N):
        return 1.0
    found = stats.wilcoxon(
        differences_N, zero_method="pratt", correction=False, method="asymptotic"
    )
    return float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for all being looked at (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def detectable(error: float) -> float:
    """The difference that a two-sided test at 5% sees with 80% power, from its standard error."""
    return (Z95 + Z80) * error


def detectable_pairs(count: int, discordant: float = 0.25) -> float:
    """`detectable` for `count` pairs of right and wrong, of which so many differ."""
    return detectable(math.sqrt(discordant / count))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of `samples` answers, drawn without replacement, hold a right one, of which
    there are `right`: the unbiased estimate of pass@k (arXiv 2107.03374)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


@functools.lru_cache(maxsize=100_000)
def majority_at_k(right: int, wrong: tuple[int, ...], silent: int, k: int) -> float:
    """The chance that the answer most frequent among k samples is right, over all sets of k.

    `right` samples say the right answer, `wrong` counts those of each other answer, `silent` ones
    say nothing and do not vote. A tie is won by each of its answers with the same chance.
    """
    by_ties: Counter[int] = Counter()
    for votes in range(1, min(k, right) + 1):
        ways = {(votes, 0): math.comb(right, votes)}  # (samples taken, ties) -> sets of samples
        for size in wrong:
            longer: Counter[tuple[int, int]] = Counter()
            for (taken, ties), count in ways.items():
                for more in range(min(size, votes, k - taken) + 1):
                    key = taken + more, ties + (more == votes)
                    longer[key] += count * math.comb(size, more)
            ways = longer
        for (taken, ties), count in ways.items():
            by_ties[ties] += count * math.comb(silent, k - taken)
    total = math.comb(right + sum(wrong) + silent, k)
    return sum(count / (ties + 1) for ties, count in by_ties.items()) / total
