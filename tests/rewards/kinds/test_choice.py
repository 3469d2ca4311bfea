# SPDX-License-Identifier: Apache-2.0
"""Choices: letters in the forms that models write them, and nothing that only looks like one."""

import pytest

from jaxvl.rewards import verify

# (answer, gold, reward), options unknown
LETTERS = [
    ("B", "B", 1),
    ("b", "B", 1),
    ("(B)", "B", 1),
    ("[B]", "B", 1),
    ("(b)", "B", 1),
    ("B.", "B", 1),
    ("B)", "B", 1),
    ("B:", "B", 1),
    ("B、", "B", 1),
    ("（Ｂ）", "B", 1),
    ("**B**", "B", 1),
    ("**B. right**", "B", 1),
    ("$B$", "B", 1),
    ("\\boxed{B}", "B", 1),
    ("\\text{B}", "B", 1),
    ("$\\boxed{\\text{(B)}}$", "B", 1),
    ("\\boxed{\\mathrm{B}}", "B", 1),
    ('"B"', "B", 1),
    ("\n\nD: 27°\n\n", "D", 1),
    ("D: 27°C", "D", 1),
    ("D:27", "D", 1),
    ("B. right", "B", 1),
    ("B) right", "B", 1),
    ("(B) right", "B", 1),
    ("B、右", "B", 1),
    ("B. 5 A", "B", 1),  # amperes
    ("C. not enough information", "C", 1),
    ("The answer is B", "B", 1),
    ("The answer is (B).", "B", 1),
    ("The answer is B because the chair is nearer.", "B", 1),
    ("The answer is B because C is further off.", "B", 1),
    ("The answer is A because it is nearer.", "A", 1),
    ("答案：B", "B", 1),
    ("答案是B。", "B", 1),
    ("所以选 (B)", "B", 1),
    ("选择题", "B", 0),
    ("【B】", "B", 1),
    ("「B」", "B", 1),
    ("B!", "B", 1),
    ("```B```", "B", 1),
    ("```text\nB\n```", "B", 1),
    ("B、左边", "B", 1),
    ("D、B", "B, D", 1),
    ("D、B", "B", 0),
    ("B和D", "B, D", 1),
    ("B或D", "B, D", 0),
    ("The correct answers are B and D.", "B, D", 1),
    ("Options: (B), (D)", "B, D", 1),
    ("The answers are B and D", "B", 0),
    ("the correct answer is: B", "B", 1),
    ("Answer: B", "B", 1),
    ("Option B", "B", 1),
    ("option (B)", "B", 1),
    ("I choose option B", "B", 1),
    ("The correct choice is B.", "B", 1),
    ("I would choose (B)", "B", 1),
    ("I", "I", 1),
    # the forms of golds
    ("A", "A)", 1),
    ("A", "(a)", 1),
    ("A", "A. left", 1),
    ("a", "(A)", 1),
    ("B", "A)", 0),
    # the article
    ("A person is standing on the left", "A", 0),
    ("A dog", "A", 0),
    ("The answer is A dog", "A", 0),
    ("a dog", "A", 0),
    ("It is a B", "A", 0),
    # only the beginning of a word
    ("Bob is closer", "B", 0),
    ("Box", "B", 0),
    ("Above", "A", 0),
    ("B2", "B", 0),
    ("A4", "A", 0),
    ("A's", "A", 0),
    ("vitamin C", "C", 0),
    ("point B.", "B", 0),
    # several
    ("A. left B. right C. above D. below", "A", 0),
    ("A or B", "A", 0),
    ("A or B", "B", 0),
    ("A, B", "A", 0),
    ("A/B", "A", 0),
    ("(A) (B) (C) (D)", "A", 0),
    ("A: B", "A", 0),
    ("AB", "A", 0),
    ("B. Point A is closer", "B", 1),  # an A before a lower-case word is no letter
    ("B. Point C is closer", "B", 1),  # the name of a point
    ("The answer is A. No, the answer is B", "B", 0),
    ("Neither A nor B", "A", 0),
    ("not (B)", "B", 0),
    ("The answer is not B", "B", 0),
    # nothing
    ("", "A", 0),
    ("none of them", "A", 0),
    ("?", "A", 0),
    ("left", "A", 0),
    ("1", "A", 0),
    ("(b) right", "B", 1),
    # several right letters
    ("D and B", "B, D", 1),
    ("B, D", "B, D", 1),
    ("D,B", "B, D", 1),
    ("(B) and (D)", "B, D", 1),
    ("B D", "B, D", 1),
    ("BD", "B, D", 1),
    ("B, D", "BD", 1),
    ("B", "B, D", 0),
    ("A, B, D", "B, D", 0),
    ("B, B", "B, D", 0),
    # options with numbers
    ("3", "3", 1),
    ("(3)", "3", 1),
    ("3. the third", "3", 1),
    ("3.5", "3", 0),
    ("3 or 4", "3", 0),
    # a gold that is text
    ("left", "left", 1),
    ("Left.", "left", 1),
    ("to the left", "left", 0),
]
FOUR = ["left", "right", "above", "below"]
COUNTS = ["2", "3", "13", "0.5"]
POINTS = ["Point B", "Point A", "Both points", "A"]
LETTERED = ["B", "C", "D", "E", "No correct answer"]  # options that are called by letters
# (answer, gold, choices, reward)
TEXTS = [
    ("right", "B", FOUR, 1),
    ("Right.", "B", FOUR, 1),
    ("  RIGHT ", "B", FOUR, 1),
    ("right", "right", FOUR, 1),
    ("B", "right", FOUR, 1),
    ("(B) right", "right", FOUR, 1),
    ("B right", "B", FOUR, 1),
    ("B - right", "B", FOUR, 1),
    ("B (right)", "B", FOUR, 1),
    ("A. right", "A", FOUR, 0),
    ("A. right", "B", FOUR, 0),
    ("upright", "B", FOUR, 0),
    ("left or right", "A", FOUR, 0),
    ("left or right", "B", FOUR, 0),
    ("to the right", "B", FOUR, 1),
    ("E", "B", FOUR, 0),
    ("E", "E", FOUR, 0),
    ("nothing", "nothing", FOUR, 0),
    ("A left", "A", FOUR, 1),  # the letter with its own option's text
    ("3", "B", COUNTS, 1),
    ("3", "3", COUNTS, 1),
    ("13", "B", COUNTS, 0),
    ("0.5", "D", COUNTS, 1),
    ("1/2", "D", COUNTS, 1),  # the same number
    ("A: 2", "A", COUNTS, 1),
    ("Point A", "B", POINTS, 1),
    ("Point A", "A", POINTS, 0),
    ("B. Point A", "B", POINTS, 1),
    ("A. Point A", "A", POINTS, 0),
    ("8 \\mathrm{~kg}", "B", ["$4 \\mathrm{~kg}$", "$8 \\mathrm{~kg}$"], 1),
    ("$2 \\cdot 4$", "A", ["$2 \\cdot 4$", "$2+4$"], 1),
    ("\\dfrac{1}{2}", "A", ["$\\frac{1}{2}$", "$\\frac{1}{3}$"], 1),
    ("same", "B", ["same", "same", "other"], 1),  # an option that is there twice
    ("(1, 2)", "A", ["(1, 2)", "[1, 2]"], 1),
    ("[1, 2]", "A", ["(1, 2)", "[1, 2]"], 0),
    ("-5", "B", ["5", "-5"], 1),
    ("B -5", "B", ["5", "-5"], 1),
    ("C or D", "B", ["C", "C or D"], 1),
    ("(B) C or D.", "B", ["C", "C or D"], 1),
    ("D. E", "D", LETTERED, 1),
    ("(A) B", "A", LETTERED, 1),
    ("D. E", "E", LETTERED, 0),
    ("D, E", "D", LETTERED, 0),
    ("D. C", "D", LETTERED, 0),
]


@pytest.mark.parametrize(("answer", "gold", "reward"), LETTERS)
def test_letters(answer, gold, reward):
    text = f"<think>A? B? C? D?</think><answer>{answer}</answer>"
    assert verify("mcq", text, gold).reward == reward


@pytest.mark.parametrize(("answer", "gold", "choices", "reward"), TEXTS)
def test_with_the_options_known(answer, gold, choices, reward):
    assert verify("mcq", f"<answer>{answer}</answer>", gold, choices).reward == reward


@pytest.mark.parametrize("gold", ["E", "nothing", ""])
def test_a_gold_that_is_no_option_is_the_rows_fault(gold):
    assert verify("mcq", "<answer>A</answer>", gold, FOUR).reason == "bad_gold"


def test_canonical_is_the_letters():
    for answer in ("B", "(b)", "right", "B. right", "The answer is B"):
        assert verify("mcq", f"<answer>{answer}</answer>", "A", FOUR).canonical == "B"
    assert verify("mcq", "<answer>D and B</answer>", "A", FOUR).canonical == "B, D"
