# SPDX-License-Identifier: Apache-2.0
"""Numbers: what is one, and when two are the same."""

import pytest

from jaxvl.rewards import verify

# (answer, gold, reward)
TABLE = [
    # spelling
    ("3", "3", 1),
    (" 3 ", "3", 1),
    ("\n\n3\n", "3", 1),
    ("+7", "7", 1),
    ("-7", "-7", 1),
    ("\u22127", "-7", 1),  # the minus sign
    ("\u20137", "-7", 1),  # an en dash
    ("- 7", "-7", 1),
    ("minus 7", "-7", 1),
    ("negative seven", "-7", 1),
    ("-7", "7", 0),
    ("7", "-7", 0),
    ("007", "7", 1),
    ("3.0", "3", 1),
    ("3.", "3", 1),
    (".5", "0.5", 1),
    ("1,234", "1234", 1),
    ("1,234,567.5", "1234567.5", 1),
    ("1234", "1,234", 1),
    ("１２", "12", 1),  # full width
    ("\u200b12\u200f", "12", 1),  # zero width space, right-to-left mark
    ("three", "3", 1),
    ("Three", "3", 1),
    ("TWENTY", "20", 1),
    ("zero", "0", 1),
    ("0", "-0", 1),
    # dress
    ("$3$", "3", 1),
    ("\\(3\\)", "3", 1),
    ("\\[3\\]", "3", 1),
    ("\\boxed{3}", "3", 1),
    ("$\\boxed{3}$", "3", 1),
    ("\\text{3}", "3", 1),
    ("**3**", "3", 1),
    ("```\n3\n```", "3", 1),
    ("```json\n3\n```", "3", 1),
    ("`3`", "3", 1),
    ("(3)", "3", 1),
    ("[3]", "3", 1),
    ('"3"', "3", 1),
    ("#3", "3", 1),
    ("The answer is 3", "3", 1),
    ("The final answer is: $3$.", "3", 1),
    ("Answer: 3", "3", 1),
    ("There are 3 cubes.", "3", 1),
    ("3 (three)", "3", 1),
    ("three cubes", "3", 1),
    ("答案是3个", "3", 1),
    ("答案：３", "3", 1),
    ("所以，答案为3。", "3", 1),
    ("「3」", "3", 1),
    ("\u20667\u2069", "7", 1),  # directional isolates
    ("3\u00a0cm", "3", 1),
    ("1\u00a0234", "1234", 1),
    ("3、4", "3", 0),
    ("3,5", "3.5", 1),  # a decimal comma, for a gold with decimals
    ("1.234,5", "1234.5", 1),
    ("\\frac{-1}{2}", "-0.5", 1),
    ("3\\frac{-1}{2}", "2.5", 0),
    ("- \\frac{-1}{2}", "0.5", 0),
    ("-3 1/2", "-3.5", 1),
    ("3 1/2", "3", 0),
    ("1 m", "100 cm", 0),  # nothing is converted
    # what stands after the last equals sign
    ("x = 3", "3", 1),
    ("1 + 2 = 3", "3", 1),
    ("1 + 2 + 3 = 6", "3", 0),
    ("2 × 3 = 6", "6", 1),
    ("x ≈ 3.14", "3.14", 1),
    ("3 = ", "3", 0),
    ("x = 5, y = 3", "3", 0),
    ("x = 5 or x = 3", "3", 0),
    # fractions, mixed numbers, powers of ten
    ("1/2", "0.5", 1),
    ("1 / 2", "0.5", 1),
    ("\\frac{1}{2}", "0.5", 1),
    ("\\frac12", "0.5", 1),
    ("\\dfrac{3}{4}", "3/4", 1),
    ("2/4", "1/2", 1),
    ("0.5", "1/2", 1),
    ("0.33", "1/3", 0),
    ("½", "0.5", 1),
    ("3½", "3.5", 1),
    ("3 1/2", "3.5", 1),
    ("-3 1/2", "-3.5", 1),
    ("3 1/2", "31/2", 0),
    ("3\\frac{1}{2}", "7/2", 1),
    ("3 3/2", "4.5", 0),
    ("1/0", "0", 0),
    ("1/2/3", "1/6", 0),
    ("1e3", "1000", 1),
    ("1.2e-3", "0.0012", 1),
    ("3 \\times 10^{5}", "300000", 1),
    ("3×10^5", "300000", 1),
    ("10^3", "10", 0),
    ("10^3", "3", 0),
    # decimals are met to the gold's last place
    ("3.14159", "3.14", 1),
    ("3.145", "3.14", 1),
    ("3.146", "3.14", 0),
    ("3.1", "3.14", 0),
    ("3", "3.14", 0),
    ("22/7", "3.14", 1),
    ("3.4", "3", 0),
    ("2.9999", "3", 0),
    ("1.414", "1.41", 1),
    # percent
    ("50%", "0.5", 1),
    ("50%", "50", 1),
    ("50%", "50%", 1),
    ("50 %", "50%", 1),
    ("50 percent", "50%", 1),
    ("50\\%", "0.5", 1),
    ("0.5", "50%", 1),
    ("50", "50%", 1),
    ("0.5", "50", 0),
    ("0.5%", "50%", 0),
    ("0.5%", "0.5", 1),
    ("12.5%", "0.125", 1),
    ("5000%", "50%", 0),
    # units
    ("12 cm", "12", 1),
    ("12cm", "12", 1),
    ("12 cm2", "12", 1),
    ("12 cm^2", "12", 1),
    ("12 \\text{ cm}^2", "12", 1),
    ("12 \\mathrm{~cm}", "12 cm", 1),
    ("12", "12 cm", 1),
    ("12 centimeters", "12 cm", 1),
    ("5 km", "5 m", 0),
    ("5000 m", "5 km", 0),
    ("60°", "60", 1),
    ("60^\\circ", "60 degrees", 1),
    ("60 degrees", "60°", 1),
    ("25 °C", "25", 1),
    ("$12", "12", 1),
    ("\\$12", "$12", 1),
    ("$12", "12 euros", 0),
    ("12 dollars", "$12", 1),
    ("12 apples", "12", 1),
    ("3 hours", "3 min", 0),
    # magnitudes
    ("3 million", "3000000", 1),
    ("3 million", "3", 0),
    ("two hundred", "200", 1),
    ("two dozen", "24", 1),
    # not one number
    ("5, 6", "6", 0),
    ("5 or 6", "6", 0),
    ("5 or 6", "5", 0),
    ("5 and a half", "5", 0),
    ("5 or more", "5", 0),
    ("5,6", "6", 0),
    ("5-6", "6", 0),
    ("3 3", "3", 0),
    ("1 234", "1234", 1),
    ("twenty one", "20", 0),
    ("twenty-one", "1", 0),
    ("two or three", "2", 0),
    ("two thirds", "2", 0),
    ("3 quarters", "3", 0),
    ("10:30", "10", 0),
    # not a plain number
    ("", "3", 0),
    ("none", "3", 0),
    ("²", "2", 0),
    ("3²", "3", 0),
    ("x²", "2", 0),
    ("2x", "2", 0),
    ("2π", "2", 0),
    ("2\\pi", "2", 0),
    ("√16", "16", 0),
    ("\\sqrt{16}", "16", 0),
    ("5!", "5", 0),
    ("|5|", "5", 0),
    ("x^2", "2", 0),
    ("x + 12", "12", 0),
    ("x - 5", "-5", 0),
    ("x -5", "-5", 0),
    ("5 x", "5", 0),
    ("5 k", "5", 0),
    ("5 m", "5", 1),
    ("2*3", "3", 0),
    ("±3", "3", 0),
    ("x < 3", "3", 0),
    ("x >= 3", "3", 0),
    ("x != 3", "3", 0),
    ("less than 3", "3", 0),
    ("at least 3", "3", 0),
    ("not 3", "3", 0),
    ("3D", "3", 0),
    ("Q3", "3", 0),
    ("cm2", "2", 0),
    ("1st", "1", 0),
    ("5k", "5", 0),
    ("3万", "3", 0),
    ("٣", "3", 1),  # digits of another script
    ("3٣", "33", 0),
    ("3 squared", "3", 0),
    ("1e999999999", "1", 0),
    ("1e-999999999", "0", 0),
    ("1e9999999999999999999", "1", 0),
    ("inf", "3", 0),
    ("nan", "3", 0),
    ("0x10", "16", 0),
    ("1_000", "1000", 0),
    ("3+4j", "3", 0),
    ("__import__('os')", "0", 0),
    # a gold that is no number earns nobody anything
    ("3", "cat", 0),
    ("cat", "cat", 0),
    ("1/0", "1/0", 0),
]


@pytest.mark.parametrize(("answer", "gold", "reward"), TABLE)
def test_table(answer, gold, reward):
    text = f"<think>So it is 99, or 3, or 5.</think><answer>{answer}</answer>"
    assert verify("number", text, gold).reward == reward


def test_gold_may_be_a_python_number():
    assert verify("number", "<answer>3</answer>", 3).reward == 1
    assert verify("number", "<answer>0.5</answer>", 0.5).reward == 1


def test_reasons_tell_hedging_from_what_cannot_be_read():
    reasons = {"5 or 6": "several", "2x": "unread", "4": "mismatch", "3": "match"}
    for answer, reason in reasons.items():
        assert verify("number", f"<answer>{answer}</answer>", "3").reason == reason
    assert verify("number", "<answer>3</answer>", "cat").reason == "bad_gold"


def test_canonical_is_the_value():
    for answer in ("1/2", "0.50", "\\frac{2}{4}", "½"):
        assert verify("number", f"<answer>{answer}</answer>", "7").canonical == "1/2"
