# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own figures, against published totals and cases worked out by hand."""

import math
import random

import pytest

from jaxvl.eval.benchmark import Grade, Item, Scored
from jaxvl.eval.benchmarks import blink_spatial, cv_bench, dynamath, mathvista, sat, scienceqa
from jaxvl.eval.benchmarks import wemath as we
from jaxvl.eval.reporting import stats
from jaxvl.eval.scoring import figures


def scored(value, id="", sample=0, cluster="", extra=None, **groups):
    item = Item(id, [], (), "A", cluster=cluster, groups=groups, extra=extra or {})
    return Scored(item, sample, Grade(None if value is None else float(value)))


def share(count, hits, **groups):
    return [scored(n < hits, **groups) for n in range(count)]


def cut(value):
    """A percentage as the paper prints it: two decimals, the others cut off."""
    return math.floor(value * 1e4 + 1e-6) / 100


# Hits are the published percentages of 788, 650, 600 and 600 questions, to the nearest whole one.
@pytest.mark.parametrize(
    ("hits", "printed", "total"),
    [
        ((431, 146, 1, 190), (54.69, 22.46, 0.16, 31.66), 29.11),  # printed as 31.38
        ((473, 448, 330, 275), (60.02, 68.92, 55.00, 45.83), 57.84),
        ((470, 434, 325, 340), (59.64, 66.76, 54.16, 56.66), 59.47),
    ],
)
def test_visualthinkers_totals_follow_from_its_tasks(hits, printed, total):
    sizes = {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}
    rows = []
    for (task, size), hit, percent in zip(sizes.items(), hits, printed, strict=True):
        part = share(size, hit, task=task, source="", type="")
        assert cut(figures.among("task", task)(part)) == percent
        rows += part
    assert cut(cv_bench.BENCHMARK.metrics["accuracy"](rows)) == total


def test_cambrians_formula_weighs_the_sources():
    rows = share(4, 1, source="ADE20K", type="2D") + share(8, 6, source="COCO", type="2D")
    rows += share(5, 2, source="Omni3D", type="3D")
    metrics = cv_bench.BENCHMARK.metrics
    assert metrics["2D"](rows) == pytest.approx((1 / 4 + 6 / 8) / 2)
    assert metrics["3D"](rows) == pytest.approx(2 / 5)
    assert metrics["cambrian"](rows) == pytest.approx(((1 / 4 + 6 / 8) / 2 + 2 / 5) / 2)
    assert metrics["accuracy"](rows) == pytest.approx(9 / 17)
    assert metrics["cambrian"](rows[4:]) is None and metrics["2D"](rows[12:]) is None


def test_blinks_averages():
    rows = share(4, 1, subset="Relative_Depth") + share(2, 1, subset="Spatial_Relation")
    rows += share(2, 2, subset="Multi-view_Reasoning")
    metrics = blink_spatial.BENCHMARK.metrics
    assert metrics["accuracy"](rows) == pytest.approx(4 / 8)
    assert metrics["macro"](rows) == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)
    assert metrics["visualthinker"](rows) == pytest.approx(2 / 6)


def problem(cluster, steps, whole, sample=0):
    n = len(steps)
    parts = [*(f"{n}steps_{k}" for k in range(1, n + 1)), f"{n}steps_multi"]
    return [
        scored(
            v, f"{cluster}/{p}", sample, cluster, part=p, steps="1" if "multi" not in p else f"{n}"
        )
        for v, p in zip([*steps, whole], parts, strict=True)
    ]


CASES = [
    # steps, whole -> strict, loose
    ((1, 1), 1, "CM", "CM"),
    ((1, 0), 1, "RM", "CM"),
    ((0, 0), 1, "RM", "RM"),
    ((1, 1), 0, "IG", "IG"),
    ((0, 1), 0, "IK", "IK"),
    ((0, 0), 0, "IK", "IK"),
    ((1, 1, 1), 1, "CM", "CM"),
    ((0, 0, 1), 1, "RM", "CM"),
    ((1, 1, 1), 0, "IG", "IG"),
    ((1, 0, 1), 0, "IK", "IK"),
]


@pytest.mark.parametrize(("steps", "whole", "strict", "loose"), CASES)
def test_each_kind_of_wemath_problem(steps, whole, strict, loose):
    rows = problem("p", steps, whole)
    for kind, of in ((strict, True), (loose, False)):
        # Of the problems that are right none is left where this one is not: the share is unknown.
        others = [None if k == "RM" and not whole else 0.0 for k in we.KINDS]
        expected = dict(zip(we.KINDS, others, strict=True)) | {kind: 1.0}
        assert {k: we.share(k, strict=of)(rows) for k in we.KINDS} == expected


def test_wemaths_score_of_ten_problems():
    rows = [row for n, case in enumerate(CASES) for row in problem(f"p{n}", *case[:2])]
    metrics = {name: metric(rows) for name, metric in we.BENCHMARK.metrics.items()}
    # strict: CM 2, RM 3, IG 2, IK 3; the published form is (10 - IG/2 - RM - IK) / 10
    assert metrics["score (strict)"] == pytest.approx((10 - 2 / 2 - 3 - 3) / 10)
    # loose: CM 4, RM 1
    assert metrics["score (loose)"] == pytest.approx((10 - 2 / 2 - 1 - 3) / 10)
    assert metrics["RM (strict)"] == pytest.approx(3 / 5)
    assert metrics["RM (loose)"] == pytest.approx(1 / 5)
    assert (metrics["IK"], metrics["IG"]) == pytest.approx((0.3, 0.2))
    assert metrics["S1"] == pytest.approx(15 / 24)
    assert (metrics["S2"], metrics["S3"]) == pytest.approx((3 / 6, 2 / 4))


def test_wemath_without_a_problem_that_is_right_and_with_missing_rows():
    wrong = problem("p", (0, 1), 0)
    assert we.BENCHMARK.metrics["RM (strict)"](wrong) is None  # 0 of 0
    assert we.BENCHMARK.metrics["score (strict)"](wrong[:2]) is None
    more = wrong + problem("q", (1, 1), 1)[1:]
    assert we.BENCHMARK.metrics["score (strict)"](more) == 0.0


def test_dynamaths_worst_case_is_of_questions_not_of_replies():
    rows = []
    for question, right in {"1": [1] * 10, "2": [1] * 9 + [0], "3": [0] * 10}.items():
        rows += [scored(v, f"{question}/{n}", 0, question) for n, v in enumerate(right)]
    metrics = {name: metric(rows) for name, metric in dynamath.BENCHMARK.metrics.items()}
    assert metrics["average"] == pytest.approx(19 / 30)
    assert metrics["worst case"] == pytest.approx(1 / 3)
    assert metrics["robustness"] == pytest.approx((1 / 3) / (19 / 30))
    assert dynamath.BENCHMARK.metrics["robustness"](rows[20:]) is None
    twice = rows + [scored(1, one.item.id, 1, one.item.cluster) for one in rows]
    # of two samples a question each counts for itself
    assert dynamath.BENCHMARK.metrics["worst case"](twice) == pytest.approx((1 + 3) / 6)


def test_sat_counts_a_question_where_every_rotation_is_right():
    rows = [scored(v, f"a/{n}", 0, "a") for n, v in enumerate((1, 1))]
    rows += [scored(v, f"b/{n}", 0, "b") for n, v in enumerate((1, 0, 1))]
    assert sat.BENCHMARK.metrics["circular"](rows) == pytest.approx(1 / 2)
    assert sat.BENCHMARK.metrics["accuracy"](rows) == pytest.approx(4 / 5)


def test_mathvistas_skills_overlap():
    rows = [
        scored(1, extra={"skills": ["geometry reasoning", "algebraic reasoning"]}),
        scored(0, extra={"skills": ["geometry reasoning"]}),
    ]
    metrics = mathvista.BENCHMARK.metrics
    assert metrics["geometry reasoning"](rows) == 0.5
    assert metrics["algebraic reasoning"](rows) == 1.0
    assert metrics["numeric commonsense"](rows) is None


def test_scienceqas_two_figures():
    rows = share(2, 1, image="yes") + share(2, 2, image="no")
    assert scienceqa.BENCHMARK.metrics["IMG"](rows) == 0.5
    assert scienceqa.BENCHMARK.metrics["full"](rows) == 0.75
    assert scienceqa.BENCHMARK.metrics["full"](rows[:2]) is None


def test_metrics_of_sums_have_the_influences_of_any_metric():
    draw = random.Random(0)
    clusters = [
        [
            row
            for k in range(2)
            for row in problem(f"p{n}", [draw.random() < 0.7, draw.random() < 0.7], n % 3 > 0, k)
        ]
        for n in range(40)
    ]
    several = (we.BENCHMARK, dynamath.BENCHMARK)
    metrics = [m for it in several for m in it.metrics.values() if isinstance(m, figures.Sums)]
    assert len(metrics) == 13
    for metric in metrics:
        value, influence = stats.influence(metric, clusters)
        sums = [metric.totals(members) for members in clusters]
        got, influences = stats.influence_of_sums(metric.value, sums)
        if value is None:  # no problem has three steps
            assert got is None
        else:
            assert got == value and influences.tolist() == influence.tolist()
            assert 0 < value < 1 and influence.any()


def test_a_metric_of_nothing_is_none():
    assert figures.accuracy([]) is None and figures.all_right([]) is None
    assert figures.macro("task")([]) is None
