# SPDX-License-Identifier: Apache-2.0
"""Mathematics: equal in any form, and nothing that only looks or rounds alike."""

import pytest

from jaxvl.rewards import verify
from jaxvl.rewards.kinds import latex

# (gold, answer, reward)
TABLE = [
    # plain numbers never reach computer algebra
    ("3", "3", 1),
    ("3", "3.0", 1),
    ("3", "\\boxed{3}", 1),
    ("3", "three", 1),
    ("0.5", "1/2", 1),
    ("\\frac{1}{2}", "0.5", 1),
    ("3.5", "3\\frac{1}{2}", 1),
    ("1,234", "1234", 1),
    ("3\\times 10^{8}", "3e8", 1),
    ("50\\%", "0.5", 1),
    ("60^\\circ", "60", 1),
    ("60^\\circ", "60 degrees", 1),
    ("5 km", "5 m", 0),
    ("3", "1+2=3", 1),
    ("5", "AB=5", 1),
    ("5", "x=5", 1),
    ("x=5", "5", 1),
    ("x=5", "x = 5.0", 1),
    ("x=5", "y=5", 0),
    ("3", "x = 5, y = 3", 0),
    ("6", "2x+3y=6", 0),
    ("2x+3y=6", "6", 0),
    ("30", "5 6", 0),
    ("5", "5 or 5", 0),
    ("5", "x 5", 0),
    ("5", "5x", 0),
    # exact forms
    ("2\\sqrt{3}", "2√3", 1),
    ("2\\sqrt{3}", "2*sqrt(3)", 1),
    ("2\\sqrt{3}", "$2\\sqrt3$", 1),
    ("2\\sqrt{3}", "\\sqrt{12}", 1),
    ("2\\sqrt{3}", "3\\sqrt{2}", 0),
    ("2\\sqrt{3}", "2", 0),
    ("\\frac{2}{\\sqrt{2}}", "sqrt(2)", 1),
    ("\\frac{5\\sqrt{3}}{2}", "2.5√3", 1),
    ("2\\pi", "2pi", 1),
    ("2\\pi", "2π", 1),
    ("2\\pi", "2", 0),
    ("\\frac{\\pi}{3}", "π/3", 1),
    ("\\pi", "3.14", 0),
    ("2^{10}", "1024", 1),
    ("5!", "120", 1),
    ("\\log_2 8", "3", 1),
    ("0", "\\sin(\\pi)", 1),
    ("1", "2^0", 1),
    ("\\tan 45^\\circ", "1", 1),
    ("\\frac{\\sqrt{6}+\\sqrt{2}}{4}", "\\cos 15^\\circ", 1),
    ("\\frac{\\pi}{3}", "60^\\circ", 1),  # the sign says what the number is
    ("60°", "\\pi/3", 1),
    ("\\frac{\\pi}{3}", "60", 0),
    ("60", "\\pi/3", 0),
    ("x", "\\frac{2x}{2}", 1),
    ("x", "2x", 0),
    ("x", "y", 0),
    ("(1,2)", "（1，2）", 1),
    ("y=|x+9|", "y＝|x+9|", 1),
    ("2\\sqrt{3}", "2\u200b√3", 1),
    ("2+3i", "3i+2", 1),
    ("\\infty", "∞", 1),
    ("\\emptyset", "\\varnothing", 1),
    # approximations of exact golds are not equal, nor are hair's breadths
    ("\\sqrt{2}", "1.414214", 0),
    ("\\sqrt{2}", "1.41421356237310", 0),
    ("\\frac{1}{3}", "0.3333333333", 0),
    ("6\\pi", "18.85", 0),
    ("1.41", "\\sqrt{2}", 1),  # a decimal gold is met within its last place
    ("18.85", "6\\pi", 1),
    ("18.84", "6\\pi", 0),
    # small values are compared relatively, and exactly
    ("10^{-25}", "10^{-24}", 0),
    ("10^{-25}", "\\frac{1}{10^{25}}", 1),
    ("\\frac{1}{7^{60}}", "\\frac{1}{7^{61}}", 0),
    ("\\sqrt{5}\\cdot10^{-30}", "\\sqrt{6}\\cdot10^{-30}", 0),
    ("\\sqrt{8}\\cdot10^{-30}", "2\\sqrt{2}\\cdot10^{-30}", 1),
    ("e^{-70}", "e^{-71}", 0),
    ("e^{-800}", "e^{-801}", 0),
    ("\\frac{1}{30!}", "\\frac{1}{31!}", 0),
    ("0", "10^{-40}", 0),
    ("10^{-40}", "\\sin(\\pi)", 0),
    ("1-\\frac{1}{3^{50}}", "1-\\frac{1}{3^{51}}", 0),
    ("\\sqrt{3}+10^{-60}", "\\sqrt{3}", 0),
    ("x+10^{-20}", "x+10^{-19}", 0),
    ("\\frac{3^{1008}-1}{3^{1009}}", "\\frac{1}{3}-\\frac{1}{3^{1009}}", 1),
    ("\\frac{3^{1008}-1}{3^{1009}}", "\\frac{1}{3}", 0),
    # the empty set
    ("\\emptyset", "\\{\\}", 1),
    ("\\{ \\}", "\\varnothing", 1),
    ("\\emptyset", "{}", 1),
    ("\\emptyset", "\\left\\{\\right\\}", 1),
    ("\\{\\}", "∅", 1),
    ("\\emptyset", "0", 0),
    ("\\emptyset", "\\{0\\}", 0),
    ("\\emptyset", "\\{\\emptyset\\}", 0),
    # golds as they are published
    ("Volume $=883.57 \\mathrm{~cm}^{3}$", "883.57", 1),
    ("Volume $=883.57 \\mathrm{~cm}^{3}$", "V = 883.57 cm^3", 1),
    ("Volume $=883.57 \\mathrm{~cm}^{3}$", "Volume = 883.57", 1),
    ("Volume $=883.57 \\mathrm{~cm}^{3}$", "Area = 883.57", 0),
    ("Volume $=883.57 \\mathrm{~cm}^{3}$", "883.57 m^3", 0),
    ("Surface area $=2 \\pi(R+r)(L+R-r)$ square units", "2\\pi(r+R)(L+R-r)", 1),
    ("Slope $=-\\frac{1}{2}$", "-0.5", 1),
    ("Slope $=-\\frac{1}{2}$", "0.5", 0),
    ("69{degrees}", "69^\\circ", 1),
    ("\\frac{3}{4}\\pi{inches}", "\\frac{3\\pi}{4}", 1),
    ("8\\sqrt{3}{squareinches}", "8\\sqrt{3}\\text{ cm}^2", 0),
    ("\\frac{5(5x+7)}{2x+3} units", "\\frac{25x+35}{2x+3}", 1),
    ("domain: (2,8] and range: [6,8)", "Domain: (2, 8] and range: [6, 8)", 1),
    ("domain: (2,8] and range: [6,8)", "domain: (2,8) and range: [6,8)", 0),
    # equations that end in the value
    ("12", "3 \\times 4 = 12", 1),
    ("12", "A = 3 \\cdot 4 = 12", 1),
    ("12", "11 = 12", 0),
    ("12", "A = 11 = 12", 0),
    ("\\frac{5}{6}", "\\frac{1}{2}+\\frac{1}{3}=\\frac{5}{6}", 1),
    # intervals in French brackets
    ("(0,1)", "]0;1[", 1),
    ("[0,1)", "[0,1[", 1),
    ("(0,1]", "[0,1[", 0),
    ("(-\\infty,2)", "]-\\infty,2[", 1),
    # units
    ("2\\sqrt{3}\\text{ cm}", "2\\sqrt{3}", 1),
    ("2\\sqrt{3}", "2\\sqrt{3} \\mathrm{~cm}^2", 1),
    ("2\\sqrt{3}\\text{ cm}", "2\\sqrt{3} \\text{ m}", 0),
    # expressions
    ("x^2", "x²", 1),
    ("x^2", "x**2", 1),
    ("a+b", "b+a", 1),
    ("2ab", "2ba", 1),
    ("3x", "\\frac{6x}{2}", 1),
    ("x^1", "\\frac{2x}{2}", 1),
    ("2x(x+1)", "2x^2+2x", 1),
    ("\\frac{x^2-1}{x-1}", "x+1", 1),
    ("\\sin^2 x", "\\sin(x)^2", 1),
    ("\\sin x\\cos x", "\\frac12\\sin 2x", 1),
    ("e^x", "exp(x)", 1),
    ("n!", "n!", 1),
    ("x_1", "x_{1}", 1),
    ("90-x", "90^\\circ-x", 1),
    ("R^2-r^2", "0", 0),  # the case of a variable matters
    ("\\pi(R^2-r^2)", "\\pi(R-r)(R+r)", 1),
    ("5x", "5X", 0),
    ("5x", "5y", 0),
    ("x+1", "x-1", 0),
    ("x+1", "x", 0),
    # functions and equations
    ("y=|x+9|", "y = |9 + x|", 1),
    ("y=|x+9|", "|x+9|", 1),
    ("y=|x+9|", "9", 0),
    ("y = -5 \\sin(-5x)", "-5", 0),
    ("y=-5\\sin(-5x)", "y=5\\sin(5x)", 1),
    ("y=2x+1", "2x+1", 1),
    ("y=2x+1", "f(x) = 1 + 2x", 1),
    ("y=2x+1", "2x-y+1=0", 1),
    ("f(x)=x+1", "y=x+1", 1),
    ("m=2n", "m = 2n", 1),
    ("m=2n", "n = 2m", 0),
    ("x^2+y^2=1", "1-x^2=y^2", 1),
    ("2x+3y=6", "4x+6y=12", 1),
    ("2x+1=3", "x=1", 0),
    ("x=-1", "x^2=1", 0),
    ("x^2=1", "y^2=1", 0),
    ("|x|=-1", "|x|=-2", 0),
    # sets, in any order
    ("\\{1, 2\\}", "x = 1 or x = 2", 1),
    ("\\{1, 2\\}", "{2, 1}", 1),
    ("\\{1, 2\\}", "1, 2", 1),
    ("1,2", "2 and 1", 1),
    ("x=1 or x=2", "\\{2,1\\}", 1),
    ("x=1, 2", "x=2, x=1", 1),
    ("x=\\pm 2", "x=2, x=-2", 1),
    ("±2", "2, -2", 1),
    ("1\\pm\\sqrt{2}", "1-\\sqrt2, 1+\\sqrt2", 1),
    ("\\{5\\}", "5", 1),
    ("x=1,y=2", "y=2, x=1", 1),
    ("x=1,y=2", "x=2, y=1", 0),
    ("\\{1, 2\\}", "\\{1, 2, 3\\}", 0),
    ("\\{1, 2\\}", "\\{1\\}", 0),
    ("\\{1, 2\\}", "1", 0),
    ("\\{1, 1\\}", "\\{1, 2\\}", 0),
    ("5\\sqrt{2}", "5\\sqrt{2} or 3", 0),
    # tuples and intervals, bracket by bracket
    ("(1, 2)", "(1,2)", 1),
    ("(1, 2)", "(2, 1)", 0),
    ("(1, 2)", "\\{1, 2\\}", 0),
    ("(1, 2)", "1, 2", 0),
    ("(2,-3)", "(2, \u22123)", 1),
    ("(\\frac{1}{2}, \\sqrt{4})", "(0.5, 2)", 1),
    ("(x,y)=(1,2)", "(1,2)", 1),
    ("(1, 2]", "[1, 2)", 0),
    ("(1, 2]", "(1, 2]", 1),
    ("(1, 2]", "(1, 2)", 0),
    ("[1, 2]", "[1.0, 2]", 1),
    ("(-\\infty, 3)", "x<3", 1),
    ("x<3", "(-oo, 3)", 1),
    ("x<3", "3>x", 1),
    ("x<3", "x \\le 3", 0),
    ("x>2", "(2,\\infty)", 1),
    ("x>2", "y>2", 0),
    ("(1,2)", "1<x<2", 1),
    ("1\\le x<2", "[1,2)", 1),
    ("x \\in [1,2)", "2 > x ≥ 1", 1),
    ("(-\\infty,1)\\cup(2,\\infty)", "x<1 or x>2", 1),
    ("(-\\infty,1)\\cup(2,\\infty)", "(-\\infty,1)", 0),
    ("(-\\infty,1)\\cup(2,\\infty)", "x<1 and x>2", 0),
    ("x<1 or x>2", "x<1 and x>2", 0),
    ("(1,2)", "x>1 and x<2", 1),
    ("[1,2)", "x<2 \\text{ and } x\\ge1", 1),
    ("(1,2)", "x>2 and x<1", 0),
    # matrices
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", 1),
    (
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        1,
    ),
    ("\\begin{bmatrix}2/2\\\\ 0\\end{bmatrix}", "\\begin{bmatrix} 1 \\\\ 0 \\end{bmatrix}", 1),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1 \\\\ 2\\end{pmatrix}", 0),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", 0),
    # ratios and times
    ("3:4", "6:8", 1),
    ("10:30", "10:30", 1),
    ("10:30", "10:40", 0),
    # words are compared as text
    ("cat", "act", 0),
    ("cat", "Cat", 1),
    ("AB", "BA", 0),
    ("no solution", "No solution.", 1),
    ("\\angle ABC=30^\\circ", "30", 1),
    # sums are read where the gold has one
    ("\\sum_{i=1}^{10} i", "55", 1),
    ("55", "\\sum_{i=1}^{10} i", 0),
    # nothing has a value that is infinite or undefined
    ("1/0", "1/0", 0),
    ("3", "1/0", 0),
    ("0", "__import__('os').system('true')", 0),
    ("0", "exec('0')", 0),
    ("0", "", 0),
]


@pytest.mark.parametrize(("gold", "answer", "reward"), TABLE)
def test_table(gold, answer, reward):
    text = f"<think>1, 2, 3, 5, 9 or x = 5.</think><answer>{answer}</answer>"
    verdict = verify("math", text, gold)
    assert verdict.reward == reward, verdict


@pytest.mark.parametrize("gold", sorted({gold for gold, _, reward in TABLE if reward}))
def test_a_gold_is_its_own_answer(gold):
    assert verify("math", f"<answer>{gold}</answer>", gold).reward == 1
    assert verify("math", f"<answer>$ {gold} $</answer>", gold).reward == 1


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("1/0", "3", "bad_gold"),
        ("\\foo{3}+x", "3", "bad_gold"),
        ("x+1", "9^{9^{9}}", "refused"),
        ("x^{40}", "x" + "^1x" * 41, "refused"),
        ("x+1", "x" + "+-" * 5 + "1", "refused"),
        ("x+1", "\\int x dx", "refused"),
        ("x+1", "x + ", "refused"),
        ("x+1", "x+2", "mismatch"),
    ],
)
def test_reasons(gold, answer, reason):
    assert verify("math", f"<answer>{answer}</answer>", gold).reason == reason


@pytest.mark.parametrize(
    ("sign", "limit", "what"),
    [("^1x", latex.POWERS, "powers"), ("=y", latex.RELATIONS, "relations")]
    + [("\\le y", latex.RELATIONS, "relations"), ("+", latex.SIGNS, "signs in a row")],
)
def test_what_takes_the_parser_long_never_reaches_it(sign, limit, what):
    assert latex.problem("x" + sign * limit + "1") == ""
    assert what in latex.problem("x" + sign * (limit + 1) + "1")
