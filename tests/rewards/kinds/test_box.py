# SPDX-License-Identifier: Apache-2.0
"""Boxes: one, well-formed, in a declared frame, worth its IoU."""

import itertools
import random

import pytest

from jaxvl.errors import UserError
from jaxvl.rewards import verify
from jaxvl.rewards.kinds import box
from jaxvl.rewards.rules import Frames, verified

GOLD = "[0.1, 0.2, 0.7, 0.5]"
# (answer, reward against GOLD)
TABLE = [
    ("[0.1, 0.2, 0.7, 0.5]", 1),
    ("[0.1,0.2,0.7,0.5]", 1),
    ("[.1, .2, .7, .5]", 1),
    ("[1e-1, 2e-1, 7e-1, 5e-1]", 1),
    ("The box is [0.1, 0.2, 0.7, 0.5].", 1),
    ('{"bbox_2d": [0.1, 0.2, 0.7, 0.5], "label": "dog"}', 1),
    ('[{"bbox_2d": [0.1, 0.2, 0.7, 0.5], "label": "dog"}]', 1),
    ('```json\n{"bbox_2d": [0.1, 0.2, 0.7, 0.5]}\n```', 1),
    ("(0.1,0.2),(0.7,0.5)", 1),  # as Qwen2-VL writes it
    ("[[0.1, 0.2, 0.7, 0.5]]", 1),
    ("$[0.1, 0.2, 0.7, 0.5]$", 1),
    ("[0.1, 0.2, 0.4, 0.5]", 0.5),
    ("[0.4, 0.2, 0.7, 0.5]", 0.5),
    ("[0, 0, 1, 1]", 0.18),
    ("[0.7, 0.5, 0.9, 0.9]", 0),  # only a corner touches
    ("[0.8, 0.8, 0.9, 0.9]", 0),
    ("[0.7, 0.5, 0.1, 0.2]", 0),  # corners swapped
    ("[0.1, 0.5, 0.7, 0.2]", 0),
    ("[0.1, 0.2, 0.1, 0.5]", 0),  # no width
    ("[100, 200, 700, 500]", 0),  # another frame is never guessed
    ("[0.1, 0.2, 0.7, 0.5], [0.0, 0.0, 0.3, 0.3]", 0),
    ("[0.1, 0.2, 0.7, 0.5], [0.1, 0.2, 0.7, 0.5]", 0),
    ("[0.1, 0.2, 0.7]", 0),
    ("[0.1, 0.2, 0.7, 0.5, 0.9]", 0),
    ("0.1, 0.2, 0.7, 0.5", 1),
    ("[0.1, 0.2, 0.7, NaN]", 0),
    ("[0.1, 0.2, Infinity, 0.5]", 0),
    ("[0.1, 0.2, 1e999, 0.5]", 0),
    ("[-1e99, -1e99, 1e99, 1e99]", 0),
    ("[0.1, 0.2, x, 0.5]", 0),
    ("[0.1, 0.2, 0.7, '0.5']", 0),
    ("[,,,]", 0),
    ("[]", 0),
    ("", 0),
    ("[" * 500, 0),
    ("[" + "9" * 500 + ", 0, 1, 1]", 0),
]


@pytest.mark.parametrize(("answer", "reward"), TABLE)
def test_table(answer, reward):
    got = verify("bbox", f"<think>[0, 0, 1, 1]</think><answer>{answer}</answer>", GOLD)
    assert got.reward == pytest.approx(reward, abs=1e-9)


def test_gold_may_be_a_list_and_must_be_a_box():
    answer = f"<answer>{GOLD}</answer>"
    assert verify("bbox", answer, [0.1, 0.2, 0.7, 0.5]).reward == 1
    for gold in ("[1, 2]", [[0, 0, 1, 1], [0, 0, 2, 2]], "dog"):
        assert verify("bbox", answer, gold).reason == "bad_gold"


def test_iou_is_the_share_of_cells():
    """Against counting the unit cells of boxes with whole coordinates."""
    draw = random.Random(0)

    def cells(b):
        return set(itertools.product(range(b[0], b[2]), range(b[1], b[3])))

    for _ in range(200):
        a, b = (
            (x, y, x + draw.randint(1, 6), y + draw.randint(1, 6))
            for x, y in ((draw.randint(0, 5), draw.randint(0, 5)) for _ in range(2))
        )
        expected = len(cells(a) & cells(b)) / len(cells(a) | cells(b))
        assert box.iou(a, b) == pytest.approx(expected, abs=1e-12)


def test_frames_are_scales_of_one_picture():
    original, processed = (640, 480), (448, 336)
    same = {
        "unit": (0.25, 0.5, 0.5, 0.75),
        "thousand": (250, 500, 500, 750),
        "processed": (112, 168, 224, 252),
        "original": (160, 240, 320, 360),
    }
    for source, target in itertools.product(box.FRAMES, repeat=2):
        got = box.convert(same[source], source, target, original, processed)
        assert got == pytest.approx(same[target])
    with pytest.raises(UserError, match="'processed' needs the size"):
        box.convert(same["unit"], "unit", "processed", original=original)
    with pytest.raises(UserError, match="expected one of unit, thousand"):
        box.convert(same["unit"], "pixels", "unit")


def test_the_reward_reads_the_models_frame():
    """One box, written in pixels of the resized picture, against a gold in pixels of the file."""
    text = "<answer>[112, 168, 224, 252]</answer>"
    columns = {
        "answer": ["[160, 240, 320, 360]"],
        "image_sizes": [((640, 480),)],
        "processed_sizes": [((448, 336),)],
    }

    def reward(frames, **other):
        inputs = {**columns, **other}
        return verified(["p"], [text], [[]], kind="bbox", frames=frames, **inputs)

    assert reward(Frames("processed", "original")) == pytest.approx([1.0])
    assert reward(Frames("original", "original"))[0] < 0.5
    with pytest.raises(UserError, match="needs one picture, found 2"):
        reward(Frames("processed", "original"), processed_sizes=[((448, 336), (28, 28))])
    with pytest.raises(UserError, match="box frame is 'pixels'"):
        Frames("pixels")
