# SPDX-License-Identifier: Apache-2.0
"""Statistics against published values, scipy and statsmodels, brute force and simulations."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxvl.eval.reporting import stats

SIMULATIONS = 2000  # the standard error of a coverage of 95% is then 0.5%


def covers(found, truth):
    return found.low <= truth <= found.high


def test_wilson_against_known_values():
    # Newcombe (1998), table 1: 81/263 and 0/20.
    assert stats.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("hits", "count"), [(0, 300), (17, 501), (150, 300), (2638, 2638)])
def test_wilson_of_whole_counts_is_scipys(hits, count):
    theirs = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert stats.wilson(hits / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_one_value_a_cluster_is_wilsons_interval():
    got = stats.rate([1] * 37 + [0] * 63, range(100))
    low, high = stats.wilson(0.37, 100)
    # The sample variance divides by 99: the interval is wider by half a percent.
    assert (got.value, got.count) == (0.37, 100)
    assert got.low == pytest.approx(low, abs=1e-3) and got.high == pytest.approx(high, abs=1e-3)


def test_copies_of_a_value_do_not_narrow_the_interval():
    hits = np.arange(100) < 37
    one = stats.rate(hits, range(100))
    eight = stats.rate(np.repeat(hits, 8), np.repeat(np.arange(100), 8))
    assert eight.count == 800 and eight.value == one.value
    # Copies add nothing; their error is known from 100 clusters, hence Student's quantile.
    assert (eight.low, eight.high) == pytest.approx((one.low, one.high), abs=2e-3)
    assert eight.low < one.low and one.high < eight.high


def test_independent_values_of_a_cluster_do():
    hits = np.random.default_rng(0).random(4000) < 0.4
    got = stats.rate(hits, np.repeat(np.arange(500), 8))
    width = 2 * 1.96 * math.sqrt(0.24 / 4000)
    assert got.high - got.low == pytest.approx(width, rel=0.1)  # 500 questions: 3% noise


def test_none_is_unknown_and_agreement_of_all_is_not_certainty():
    nothing = stats.rate([], [])
    assert nothing.value is None and (nothing.low, nothing.high, nothing.count) == (0, 1, 0)
    got = stats.rate(np.ones(80), np.repeat(np.arange(20), 4))
    assert got.high == 1.0 and got.low == pytest.approx(stats.wilson(1.0, 20)[0])


def test_rates_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    single = clustered = 0
    clusters = np.repeat(np.arange(80), 4)
    for _ in range(SIMULATIONS):
        p = rng.uniform(0.1, 0.9)
        single += covers(stats.rate(rng.random(200) < p, range(200)), p)
        p_Q1 = rng.beta(2, 3, size=(80, 1))  # questions differ, samples of one are kin
        clustered += covers(stats.rate((rng.random((80, 4)) < p_Q1).ravel(), clusters), 0.4)
    assert 0.93 <= single / SIMULATIONS <= 0.97
    assert 0.93 <= clustered / SIMULATIONS <= 0.97


@pytest.mark.parametrize("count", [5, 8, 10, 20])
@pytest.mark.parametrize("shape", [(2, 3), (8, 2), (0.5, 0.5)])
def test_intervals_of_few_clusters_are_wide_enough(count, shape):
    """At least 93% for rates and 90% for bootstraps, whose error is 1%."""
    rng = np.random.default_rng(count)
    clusters, truth = np.repeat(np.arange(count), 4), shape[0] / sum(shape)
    rates = means = 0
    for seed in range(600):
        p_K1 = rng.beta(*shape, size=(count, 1))
        hits = (rng.random((count, 4)) < p_K1).ravel()
        rates += covers(stats.rate(hits, clusters), truth)
        value, influence = stats.influence_of_mean(hits, clusters)
        means += covers(stats.bootstrap(value, influence, 4 * count, 200, seed), truth)
    assert rates / 600 >= 0.93 and means / 600 >= 0.90


def test_students_quantiles():
    known = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423}
    for freedom, value in known.items():
        assert stats.t95(freedom) == pytest.approx(value, abs=5e-5)
    assert stats.t95(10**6) == pytest.approx(stats.Z95, abs=1e-5)


def formula(members):
    """A composite metric: the mean of the accuracies of two strata of different size."""
    parts = [[hit for stratum, hit in members if stratum == name] for name in "ab"]
    return sum(sum(part) / len(part) for part in parts) / 2 if all(parts) else None


def test_bootstraps_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    composite = mean = paired = 0
    clusters = np.repeat(np.arange(100), 3)
    for _ in range(SIMULATIONS):
        hits = [("a", hit) for hit in rng.random(50) < 0.3]
        hits += [("b", hit) for hit in rng.random(70) < 0.6]
        value, influence = stats.influence(formula, [[hit] for hit in hits], hits)
        # 10,000 resamples would be the same to 0.2%, and take ten times as long.
        composite += covers(stats.bootstrap(value, influence, 120, resamples=1000), 0.45)
        shift = rng.normal(0, 0.2, (100, 1))  # answers to one picture are kin
        a, b = (0.4 + shift + rng.normal(0, 0.3, (100, 3)) for _ in range(2))
        value, influence = stats.influence_of_mean(a.ravel(), clusters)
        mean += covers(stats.bootstrap(value, influence, 300, resamples=1000), 0.4)
        value, influence = stats.influence_of_mean((b - a).ravel(), clusters)
        paired += covers(stats.bootstrap(value, influence, 300, resamples=1000), 0.0)
    for covered in (composite, mean, paired):
        assert 0.93 <= covered / SIMULATIONS <= 0.97


def test_the_influence_of_strata_gives_the_stratified_bootstrap():
    rng = np.random.default_rng(3)
    hits = [("a", hit) for hit in rng.random(60) < 0.3] + [("b", h) for h in rng.random(140) < 0.6]
    value, influence = stats.influence(formula, [[hit] for hit in hits])
    got = stats.bootstrap(value, influence, 200)
    plain = []
    for _ in range(4000):  # each stratum resampled by itself
        a, b = ([h for s, h in hits if s == name] for name in "ab")
        plain.append((rng.choice(a, 60).mean() + rng.choice(b, 140).mean()) / 2)
    # Of 4000 draws the percentiles have an error of 0.0013.
    assert (got.low, got.high) == pytest.approx(np.percentile(plain, (2.5, 97.5)), abs=0.005)


def test_clusters_that_are_alike_are_left_out_once():
    calls = []

    def counted(members):
        calls.append(len(members))
        return formula(members)

    hits = [("a", 0), ("a", 1), ("b", 0), ("b", 1)] * 20
    value, influence = stats.influence(counted, [[hit] for hit in hits], hits)
    assert len(calls) == 5 and value == 0.5
    assert influence == pytest.approx(stats.influence(formula, [[hit] for hit in hits])[1])
    assert stats.influence(lambda members: None, [[1], [2]]) == (None, None)


def test_the_standard_error_is_that_of_the_mean():
    values = np.random.default_rng(4).normal(size=50)
    expected = values.std(ddof=1) / math.sqrt(50)
    assert stats.standard_error(values, range(50)) == pytest.approx(expected)
    assert math.isnan(stats.standard_error([1, 2], ["a", "a"]))


def test_mcnemar_is_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for wins, losses in ((0, 0), (3, 9), (25, 25), (40, 61), (0, 7), (300, 260)):
        theirs = tables.mcnemar([[5, wins], [losses, 5]], exact=True).pvalue
        assert stats.mcnemar(wins, losses) == pytest.approx(theirs, rel=1e-9)


def test_a_difference_of_kin_is_statsmodels_cluster_robust_test():
    linear = pytest.importorskip("statsmodels.regression.linear_model")
    rng = np.random.default_rng(6)
    groups = rng.integers(0, 30, 120)
    values = 0.15 + rng.normal(0, 0.3, 30)[groups] + rng.normal(0, 0.4, 120)
    apart = len(set(groups))
    ours = stats.of_mean(values.mean(), stats.standard_error(values, groups), apart)
    fit = linear.OLS(values, np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert ours == pytest.approx(fit.pvalues[0], rel=1e-9) and 0.001 < ours < 0.9


def test_a_difference_that_is_known_exactly_or_not_at_all():
    assert stats.of_mean(0.0, 0.0, 5) == 1.0 and stats.of_mean(0.5, 0.0, 5) == 0.0
    assert stats.of_mean(0.5, math.nan, 1) is None


def test_the_test_of_few_clusters_rejects_no_more_often_than_it_says():
    """Five clusters without a difference: 5% are told of one; of a normal quantile, 12%."""
    rng, clusters = np.random.default_rng(7), np.repeat(np.arange(5), 4)
    found = []
    for _ in range(SIMULATIONS):
        values = rng.normal(size=(5, 1)).repeat(4, 1).ravel() + rng.normal(size=20)
        found.append(stats.of_mean(values.mean(), stats.standard_error(values, clusters), 5))
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.07


def test_wilcoxon_by_hand():
    """Pratt: 0, 0, 1, 2, 2, 3 have the ranks 1.5, 1.5, 3, 4.5, 4.5, 6; the zeros' are unused."""
    mean = (3 + 4.5 + 4.5 + 6) / 2
    variance = (3**2 + 4.5**2 + 4.5**2 + 6**2) / 4
    z = (6 - mean) / math.sqrt(variance)  # one positive difference, that of rank 6
    expected = math.erfc(abs(z) / math.sqrt(2))
    assert stats.wilcoxon([0, -1, 0, -2, -2, 3]) == pytest.approx(expected)
    assert stats.wilcoxon([0, 0]) == stats.wilcoxon([]) == 1.0


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = [0.04, 0.001, 0.03, 0.5, 0.9, 0.02]
    assert stats.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist())


def test_detectable_differences():
    # For 25% discordant pairs: 11.4 points of 150, 4.4 of 1000, 2.7 of 2638.
    found = [100 * stats.detectable_pairs(count) for count in (150, 1000, 2638)]
    assert found == pytest.approx([11.4, 4.4, 2.7], abs=0.05)


@pytest.mark.parametrize("right", range(7))
def test_pass_at_k_is_brute_force(right):
    answers = [1] * right + [0] * (6 - right)
    for k in range(1, 7):
        sets = list(itertools.combinations(answers, k))
        expected = sum(map(any, sets)) / len(sets)
        assert stats.pass_at_k(6, right, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("right", "wrong", "silent"),
    [(2, (1, 1), 2), (1, (3,), 0), (3, (3,), 1), (0, (2,), 1), (2, (), 4), (2, (2, 2), 0)],
)
def test_the_majority_is_brute_force(right, wrong, silent):
    answers = ["right"] * right + [None] * silent
    for name, count in enumerate(wrong):
        answers += [name] * count
    for k in range(1, len(answers) + 1):
        won = []
        for chosen in itertools.combinations(answers, k):
            votes = [answer for answer in chosen if answer is not None]
            most = max(map(votes.count, votes), default=0)
            best = {answer for answer in votes if votes.count(answer) == most}
            won.append("right" in best and 1 / len(best))
        expected = sum(won) / len(won)
        assert stats.majority_at_k(right, wrong, silent, k) == pytest.approx(expected)
