# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking's mixed reward: routing, the open-ended formula, no answer no reward."""

import math
from pathlib import Path

import numpy as np
import pytest

from jaxvl import config
from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, Mixed
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import ChatJudge, grade, graded
from jaxvl.rewards.mix import Scores, join_scores, score
from jaxvl.rewards.rules import Frames
from jaxvl.rewards.vlaa import VERIFIERS, Weights, open_reward, verifier_of


def run(fn, completions, rows, **services):
    names = {name for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in names}
    count = len(completions)
    return fn(["p"] * count, completions, [[]] * count, **services, **columns)


def row(kind, answer, **other):
    return {"id": "7", "verifier_type": kind, "answer": answer, "question": "what?", **other}


def length_scorer(images, prompts, texts):
    return [float(len(text)) for text in texts]


def test_each_verifier_judges_its_rows():
    rows = [
        row("digit", "3"),
        row("mcq", "B"),
        row("math", "y=|x+9|"),
        row("iou", "[0.1, 0.2, 0.7, 0.5]"),
        row("open", "abc"),
    ]
    texts = ["3", "B: right", "|9+x|", "[0.1, 0.2, 0.4, 0.5]", "abcde"]
    completions = [f"<think>so</think> <answer>{text}</answer>" for text in texts]
    got = run(Mixed(scorer=length_scorer, beta=0.5), completions, rows)
    assert got == pytest.approx([1, 1, 1, 0.5, 1 - math.exp(-0.5 * 2)])


@pytest.mark.parametrize("kind", ["digit", "mcq", "math", "iou", "open"])
@pytest.mark.parametrize("text", ["3", "<answer>3", "<answer></answer>", ""])
def test_no_valid_answer_is_no_reward(kind, text):
    answer = "[0, 0, 1, 1]" if kind == "iou" else "A" if kind == "mcq" else "3"

    def untouched(images, prompts, texts):
        raise AssertionError("nothing is asked about an answer that is not there")

    assert run(Mixed(scorer=untouched), [text], [row(kind, answer)]) == [0]


def test_the_source_decides_where_no_type_is_given():
    sources = {
        "clevr_math/images/1.png": "digit",
        "geoqa170k": "mcq",
        "arxivqa": "mcq",
        "synthesis/3.png": "math",
        "coco/train2017/5.jpg": "iou",
        "vg/VG_100K": "iou",
        "docvqa": "open",
        "VizWiz": "open",
        "allava_laion": "open",
    }
    for source, verifier in sources.items():
        assert verifier_of({"source": source}) == verifier
    assert verifier_of({"source": "docvqa", "verifier_type": "mcq"}) == "mcq"
    assert verifier_of({"verifier_type": "Open-Ended"}) == "open"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"id": "a1", "verifier_type": "vibes"}, "row a1: verifier_type is 'vibes'"),
        ({"id": "a1", "source": "imagenet"}, "source is 'imagenet'"),
        ({"id": "a1"}, "no `verifier_type`, and source is None"),
    ],
)
def test_an_unknown_type_is_an_error(found, words):
    with pytest.raises(UserError, match=words):
        verifier_of(found)


def test_the_open_formula_is_bounded_and_cannot_overflow():
    assert open_reward(2.0, 1.5, 3.0) == pytest.approx(1 - math.exp(-1.5))
    assert open_reward(1.5, 2.0, 3.0) == open_reward(2.0, 2.0, 3.0) == 0
    assert open_reward(1e308, -1e308, 1e308) == 1
    assert open_reward(1 + 1e-12, 1.0, 1.0) == pytest.approx(1e-12, rel=1e-3)


def test_references_are_scored_once():
    asked = []

    def scorer(images, prompts, texts):
        asked.extend(texts)
        return length_scorer(images, prompts, texts)

    fn = Mixed(scorer=scorer)
    group = [f"<answer>{'x' * n}</answer>" for n in (1, 4, 9)]
    for _ in range(2):
        got = run(fn, group, [row("open", "abcd")] * 3)
    assert got == pytest.approx([0, 0, 1 - math.exp(-5)])
    assert asked.count("abcd") == 1


def test_a_subset_leaves_the_others_out():
    rows = [row("digit", "3"), row("open", "abc")]
    assert run(Mixed(only=("digit",)), ["<answer>3</answer>"] * 2, rows) == [1, None]
    with pytest.raises(UserError, match="row 7 is open-ended: give Mixed a scorer"):
        run(Mixed(), ["<answer>3</answer>"] * 2, rows)
    with pytest.raises(UserError, match="expected some of digit"):
        Mixed(only=("digits",))
    with pytest.raises(UserError, match="expected a positive number"):
        Mixed(beta=0.0)


def test_a_scorer_that_fails_does_what_the_setting_says():
    def scorer(images, prompts, texts):
        return [None if text == "bad" else math.nan if text == "nan" else 1.0 for text in texts]

    rows = [row("open", "ref")] * 3
    texts = [f"<answer>{text}</answer>" for text in ("good", "bad", "nan")]
    logged = {}
    assert run(Mixed(scorer=scorer, on_failure="mask"), texts, rows) == [0, MASKED, MASKED]
    got = run(Mixed(scorer=scorer, on_failure=0.25), texts, rows, log_metric=logged.__setitem__)
    assert got == [0, 0.25, 0.25]
    assert logged["judge/failed"] == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="failed on 2 of 3 answers"):
        run(Mixed(scorer=scorer), texts, rows)


def test_boxes_are_read_in_the_models_frame():
    rows = [row("iou", "[0.25, 0.5, 0.5, 0.75]", processed_sizes=((448, 336),))]
    fn = Mixed(frames=Frames("processed", "unit"))
    assert run(fn, ["<answer>[112, 168, 224, 252]</answer>"], rows) == pytest.approx([1])
    fn = Mixed(frames=Frames("thousand", "unit"))
    assert run(fn, ["<answer>[250, 500, 500, 750]</answer>"], rows) == pytest.approx([1])


def test_boxes_are_read_in_the_frame_of_the_models_family():
    """What a run says of its model in a column decides; where nobody says it, it is asked for."""
    fn, logged = Mixed(frames=Frames("family")), []
    where = {"processed_sizes": ((448, 336),)}
    gold = "[0.25, 0.5, 0.5, 0.75]"
    for frame, text, inside in (
        ("processed", "[112, 168, 224, 252]", 1.0),
        ("thousand", "[250, 500, 500, 750]", 1.0),
        ("thousand", "[0.25, 0.5, 0.5, 0.75]", 0.0),
    ):
        rows = [row("iou", gold, box_frame=frame, **where)]
        got = run(fn, [f"<answer>{text}</answer>"], rows, log_metric=lambda *x: logged.append(x))
        assert got == pytest.approx([inside], abs=1e-3)
        assert ("boxes/in_frame", inside) == [x for x in logged if x[0] == "boxes/in_frame"][-1]
    with pytest.raises(UserError, match="set frames.model to one of unit, thousand"):
        run(fn, ["<answer>[1, 2, 3, 4]</answer>"], [row("iou", gold, **where)])


def test_a_judge_that_says_yes_or_no_cannot_score_open_answers():
    endpoint = Endpoint("http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(UserError, match="says yes to the reference too"):
        Mixed(scorer=ChatJudge(endpoint, "m"))
    assert Mixed(scorer=graded(endpoint, "m")).scorer.parse is grade
    assert [grade(text) for text in ("80", "80/100", "**7.5**", "101", "good", "8 or 9")] == [
        8.0, 8.0, 0.75, None, None, None
    ]  # fmt: skip


def test_whether_the_scorer_tells_answers_from_references_is_logged():
    texts = ["<answer>a long answer</answer>", "<answer>tiny</answer>"]
    rows = [row("open", "tiny"), row("open", "tiny")]
    logged = []
    run(Mixed(scorer=length_scorer), texts, rows, log_metric=lambda *x: logged.append(x))
    assert [v for name, v in logged if name == "mixed/open/told_apart"] == [1.0, 0.0]


FIVE = [
    row("digit", "3"),
    row("mcq", "B"),
    row("math", "y=|x+9|"),
    row("iou", "[0.1, 0.2, 0.7, 0.5]"),
    row("open", "abc"),
]


def scores(fn, replies, rows) -> Scores:
    texts = [f"<answer>{reply}</answer>" for reply in replies]
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    count = len(rows)
    return score((Reward(fn, name="mixed"),), ["p"] * count, texts, [[1]] * count, columns)


def test_a_mixed_reward_says_what_it_is_made_of():
    replies = ["3", "A", "|9+x|", "[0.1, 0.2, 0.4, 0.5]", "abcde", "4"]
    got = scores(Mixed(scorer=length_scorer, beta=0.5), replies, [*FIVE, FIVE[0]]).metrics
    reward = {name.split("/")[1]: got.pop(name) for name in list(got) if name.endswith("/reward")}
    assert reward == pytest.approx(
        {"digit": 0.5, "mcq": 0, "math": 1, "iou": 0.5, "open": 1 - math.exp(-1)}
    )
    assert {got[f"mixed/{kind}/count"] for kind in VERIFIERS[1:]} == {1}
    assert got["mixed/digit/count"] == 2 and got["mixed/digit/share"] == pytest.approx(1 / 3)
    assert sum(got[f"mixed/{kind}/share"] for kind in VERIFIERS) == pytest.approx(1)


def test_its_numbers_are_of_all_batches_whatever_their_sizes():
    fn = Mixed(only=("digit", "mcq"))
    one = scores(fn, ["3", "3", "4"], [FIVE[0]] * 3)
    other = scores(fn, ["B", "3"], [FIVE[1], FIVE[0]])
    whole = join_scores([one, other]).metrics
    assert whole == pytest.approx(
        scores(fn, ["3", "3", "4", "B", "3"], [FIVE[0]] * 3 + [FIVE[1], FIVE[0]]).metrics
    )
    assert whole["mixed/digit/reward"] == 0.75 and whole["mixed/digit/count"] == 4
    assert whole["mixed/mcq/share"] == pytest.approx(0.2)
    assert "mixed/math/share" not in whole  # not among `only`
    assert "mixed/mcq/reward" not in one.metrics and one.metrics["mixed/mcq/count"] == 0


@pytest.mark.parametrize("kind", VERIFIERS)
def test_each_kind_has_a_weight(kind):
    replies = ["3", "B", "|9+x|", "[0.1, 0.2, 0.4, 0.5]", "abcde"]
    plain = scores(Mixed(scorer=length_scorer), replies, FIVE)
    heavy = scores(Mixed(scorer=length_scorer, weights=Weights(**{kind: 0.5})), replies, FIVE)
    share = np.array([0.5 if each == kind else 1 for each in VERIFIERS])
    np.testing.assert_allclose(heavy.total_N, plain.total_N * share, rtol=1e-6)
    assert heavy.metrics == plain.metrics  # what each is worth before its weight


def test_a_weight_scales_numbers_and_leaves_marks():
    def scorer(images, prompts, texts):
        return [None if text == "bad" else 1.0 for text in texts]

    def got(on_failure):
        fn = Mixed(scorer=scorer, on_failure=on_failure, weights=Weights(open=3.0))
        return run(fn, ["<answer>good</answer>", "<answer>bad</answer>"], [row("open", "ref")] * 2)

    assert got("mask") == [0, MASKED] and got(1) == [0, 3] and got(0.5) == [0, 1.5]
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match=r"Mixed.weights.iou is .*; expected a number of 0"):
            Mixed(weights=Weights(iou=weight))


def test_the_command_line_reaches_a_weight():
    from jaxvl.config.overrides import set_field

    cfg = config.load(Path(__file__).parents[2] / "configs/vlaa.py")
    cfg = set_field(cfg, "rewards.0.fn.weights.open=0.25")
    assert cfg.rewards[0].fn.weights == Weights(open=0.25)
