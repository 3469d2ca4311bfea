# SPDX-License-Identifier: Apache-2.0
"""The policy of verdicts: kind, form of the answer, credited or not, and why, each with examples.

The table in docs/rewards.md is made of these rows by `scripts/policy_table.py`, and every example
is a test. Change a row here, and the table shows what has changed.
"""

from tests.rewards.policy_replies import REPLIES, SIDES, YES, Row

SUMS = ("$120", "$180", "$240")

POLICY = (
    # number
    Row(
        "number",
        "digits, with a sign, groups of three, decimals",
        True,
        "one number, whichever way it is written",
        (("0042", "42"), ("86,400", "86400"), ("86 400", "86400"), ("7'500'000", "7500000"))
        + (("12.50", "12.5"), ("\u221217", "-17"), ("12,34,567", "1234567")),
    ),
    Row(
        "number",
        "a decimal comma",
        True,
        "where it can be read in one way, or the gold has decimals",
        (("2,75", "2.75"), ("12.345,6", "12345.6"), ("0,333", "0.333"), ("7,5 kg", "7.5")),
    ),
    Row(
        "number",
        "a comma that may divide two numbers",
        False,
        "the gold is whole: 2,5 would be 25 or a list",
        (("2,5", "25"), ("4,6", "6"), ("1,23", "123")),
    ),
    Row(
        "number",
        "digits of another script",
        True,
        "each script's digits are digits; numerals in Chinese characters are words",
        (("١٥", "15"), ("२७", "27"), ("８８", "88"), ("১২", "12")),
    ),
    Row(
        "number",
        "digits of two scripts in one number",
        False,
        "a mixture is no number",
        (("1٥", "15"), ("२7", "27")),
    ),
    Row(
        "number",
        "number words",
        True,
        "a phrase that is a number as a whole",
        (("sixty-three", "63"), ("two hundred and seven", "207"), ("Nineteen", "19"))
        + (("one hundred twelve thousand", "112000"), ("half a dozen", "6"), ("a million", "1e6")),
    ),
    Row(
        "number",
        "part of a number phrase",
        False,
        "sixty-three is neither 60 nor 3",
        (("sixty-three", "3"), ("two hundred", "2"), ("five sixths", "5"), ("ninth", "9")),
    ),
    Row(
        "number",
        "fractions and mixed numbers, in words too",
        True,
        "their value",
        (("five eighths", "0.625"), ("three and a quarter", "3.25"), ("4 2/5", "4.4"))
        + (("2⅓", "7/3"), ("two thirds", "2/3"), ("7 tenths", "0.7")),
    ),
    Row(
        "number",
        "powers of ten and scales",
        True,
        "their value",
        (("4.2 \\cdot 10^{6}", "4200000"), ("7×10⁻²", "0.07"), ("10^5", "100000"))
        + (("1.5 million", "1500000"), ("3 trillion", "3e12"), ("2.5e-3", "0.0025")),
    ),
    Row(
        "number",
        "a scale that the gold has not",
        False,
        "8 million is not 8; k is no scale but a unit or a variable",
        (("8 million", "8"), ("8 trillion", "8"), ("8k", "8000"), ("8 dozen", "8")),
    ),
    Row(
        "number",
        "with a unit, a currency or what is counted",
        True,
        "units count where both have one; nothing is converted",
        (("19 kg", "19"), ("€30", "30"), ("EUR 30", "30"), ("8 cubic meters", "8"))
        + (("14 green bottles", "14"), ("21°", "21 degrees")),
    ),
    Row(
        "number",
        "another unit than the gold's",
        False,
        "nothing is converted",
        (("19 kg", "19 g"), ("2 km", "2000 m"), ("£30", "€30"), ("8 square cm", "8 cm")),
    ),
    Row(
        "number",
        "a sentence that says it",
        True,
        "the number behind the last is, or the one that is counted",
        (("There are 6 bars with values above 25.", "6"), ("We count eleven.", "11"))
        + (("The sum of the 3 sides is 24 cm", "24"), ("That adds up to 13", "13"))
        + (("17 is correct", "17"), ("9 because 4 + 5 = 9", "9"), ("She needs 45 minutes", "45")),
    ),
    Row(
        "number",
        "negation",
        False,
        "it says what the answer is not",
        (("it is not 17", "17"), ("17 is out of the question, wrong", "17"), ("never 17", "17"))
        + (("everything but 17", "17"), ("I doubt it is 17", "17"), ("17 (not 18)", "17"))
        + (("It is false that there are 17", "17"), ("none of the 17", "17"), ("skip 17", "17")),
    ),
    Row(
        "number",
        "bounds and hedges",
        False,
        "more numbers than one would be right",
        (("no fewer than 17", "17"), ("17 or thereabouts", "17"), ("up to seventeen", "17"))
        + (("17 upwards", "17"), ("16 to 17", "17"), ("either 16 or 17", "17")),
    ),
    Row(
        "number",
        "a function of it",
        False,
        "the square of 17 is not 17",
        (("the square root of 17", "17"), ("17 cubed", "17"), ("double 17", "17"))
        + (("a tenth of 17", "17"), ("log 17", "17"), ("17!", "17"), ("17 + 1", "17")),
    ),
    Row(
        "number",
        "a word that refers to something",
        False,
        "a pronoun or a name is no count",
        (("the tall one", "1"), ("between the two", "2"), ("step 3", "3"), ("Figure 2", "2")),
    ),
    # mcq
    Row(
        "mcq",
        "a letter, alone or declared",
        True,
        "it says nothing else",
        (("c", "C", SIDES), ("[ C ]", "C", SIDES), ("choice (c)", "C", SIDES))
        + (("It's C.", "C", SIDES), ("My pick: the answer is C", "C", SIDES))
        + (("C is the best answer", "C", SIDES), ("I'd select option C.", "C", SIDES))
        + (("正确答案是C。", "C", SIDES), ("应选 C", "C", SIDES), ('{"answer": "C"}', "C", SIDES)),
    ),
    Row(
        "mcq",
        "a letter with its reason",
        True,
        "a reason may name other options",
        (("C, because A is further down", "C", SIDES), ("C. The lamp hangs higher", "C", SIDES))
        + (("The answer is C, since it is not on the left", "C", SIDES),)
        + (
            ("As D is out, the answer is C", "C", SIDES),
            ("A is wrong. The answer is C.", "C", SIDES),
        ),
    ),
    Row(
        "mcq",
        "the text of an option, alone or in a sentence",
        True,
        "the only option that is named, and nothing takes it back",
        (("Above", "C", SIDES), ("The lamp hangs above the table", "C", SIDES))
        + (("No, there is no lamp.", "B", YES), ("the total comes to $180", "B", SUMS))
        + (("above (C)", "C", SIDES), ("C - above", "C", SIDES), ("twelve", "A", ("12", "13"))),
    ),
    Row(
        "mcq",
        "a letter with the text of another option",
        False,
        "two answers",
        (("C. below", "C", SIDES), ("below (C)", "C", SIDES), ("(A) no", "A", YES)),
    ),
    Row(
        "mcq",
        "several options",
        False,
        "hedging earns nothing",
        (("C or D", "C", SIDES), ("above or below", "C", SIDES), ("(C) or nothing", "C", SIDES))
        + (("A C", "C", SIDES), ("C\nD", "C", SIDES), ("A) left B) right C) above", "C", SIDES)),
    ),
    Row(
        "mcq",
        "negation",
        False,
        "it says what the answer is not",
        (
            ("C isn't it", "C", SIDES),
            ("(C) must be excluded", "C", SIDES),
            ("not above", "C", SIDES),
        )
        + (("Anything except C", "C", SIDES), ("I can't believe it's C", "C", SIDES))
        + (("C? No.", "C", SIDES), ("C. That is incorrect.", "C", SIDES))
        + (
            ("The answer is certainly not C", "C", SIDES),
            ("不是C", "C", SIDES),
            ("C-ish", "C", SIDES),
            ("ignore C", "C", SIDES),
            ("C... no", "C", SIDES),
            ("The answer != C", "C", SIDES),
        ),
    ),
    Row(
        "mcq",
        "not A, so B",
        False,
        "two options in one sentence, one of them negated: which is meant is not worked out",
        (("not D, so C", "C", SIDES), ("The answer is C, not D", "C", SIDES)),
    ),
    Row(
        "mcq",
        "the article, names and initials",
        False,
        "A cat is no option A",
        (("A lamp hangs there", "A", SIDES), ("Carl", "C", SIDES), ("vitamin C", "C", SIDES))
        + (("C3", "C", SIDES), ("the cable C leads up", "C", SIDES)),
    ),
    Row(
        "mcq",
        "an option that can not be",
        True,
        "a relative clause may say what the thing is not",
        (("The lamp that is not lit is (C)", "C", SIDES),)
        + (("The figure which cannot be drawn is C.", "C", SIDES),),
    ),
    # math
    Row(
        "math",
        "an equation that ends in the value",
        True,
        "commands of arithmetic are no variables",
        (("3 \\times 4 = 12", "12"), ("\\frac{20}{4} = 5", "5"), ("V = 2*3*4 = 24", "24"))
        + (("\\sqrt{9}+1 = 4", "4"), ("6 \\div 2 = 3", "3")),
    ),
    Row(
        "math",
        "another form of the same value",
        True,
        "computer algebra, exact",
        (("\\frac{6}{\\sqrt{3}}", "2\\sqrt{3}"), ("3√2", "\\sqrt{18}"), ("0.125", "\\frac{1}{8}"))
        + (("(x+2)^2", "x^2+4x+4"), ("2^{-40}", "\\frac{1}{2^{40}}"), ("\\pi/4", "45^\\circ")),
    ),
    Row(
        "math",
        "another small number",
        False,
        "values are compared relatively, to 400 digits",
        (("10^{-29}", "10^{-30}"), ("\\frac{1}{3^{50}}", "\\frac{1}{3^{51}}"), ("0", "10^{-30}"))
        + (("1+10^{-40}", "1"), ("\\sqrt{2}\\cdot10^{-18}", "\\sqrt{3}\\cdot10^{-18}")),
    ),
    Row(
        "math",
        "intervals and sets, in French brackets too",
        True,
        "bracket by bracket; a set in any order",
        (("]2, 5[", "(2,5)"), ("[2, 5[", "2 \\le x < 5"), ("5, 2", "\\{2,5\\}"))
        + (("\\{\\}", "\\emptyset"), ("∅", "\\{\\}"), ("x=2 or x=5", "\\{2,5\\}")),
    ),
    Row(
        "math",
        "another bracket, a superset, an approximation",
        False,
        "not equal",
        (("[2, 5]", "(2,5)"), ("]2, 5]", "[2, 5)"), ("1.732", "\\sqrt{3}"), ("1, 2, 3", "1, 2"))
        + (("\\{0\\}", "\\emptyset"), ("y=4", "x=4")),
    ),
    Row(
        "math",
        "what the value is of",
        True,
        "the words before = are those of the gold, or are left out",
        (("904.78", "Volume $=904.78 \\mathrm{~cm}^{3}$"), ("(20,10)", "Center $=(20,10)$"))
        + (("Slope = 1/5", "Slope $=\\frac{1}{5}$"), ("8\\sqrt{3}", "8\\sqrt{3}{squareinches}"))
        + (("118°", "118掳T"), ("56.55", "56.55 units $^{3}$")),
    ),
    Row(
        "math",
        "the value of something else",
        False,
        "an area is no volume",
        (("Area = 904.78", "Volume $=904.78$"), ("Slope = 5", "Radius = 5")),
    ),
    Row(
        "math",
        "negation, bounds, scales, other functions",
        False,
        "as for numbers",
        (
            ("\\neq 7", "7"),
            ("\\not= 7", "7"),
            ("cbrt 7", "7"),
            ("7 billion", "7"),
            ("x \\ge 7", "7"),
        )
        + (("7 is not right", "7"), ("7 = 8", "8"), ("\\pm 7", "7")),
    ),
    # bbox
    Row(
        "bbox",
        "four numbers, bare, in brackets, with names, as corners, in Qwen2-VL's tokens",
        True,
        "one box, worth its IoU",
        (("5, 6, 70, 80", "[5, 6, 70, 80]"), ("(5,6) to (70,80)", "[5, 6, 70, 80]"))
        + (("x1: 5, y1: 6, x2: 70, y2: 80", "[5, 6, 70, 80]"),)
        + (("<|box_start|>(5,6),(70,80)<|box_end|>", "[5, 6, 70, 80]"),)
        + (('{"xmin": 5, "ymin": 6, "xmax": 70, "ymax": 80}', "[5, 6, 70, 80]"),)
        + (("[[5, 6], [70, 80]]", "[5, 6, 70, 80]"),),
    ),
    Row(
        "bbox",
        "several boxes, a width and a height, negation",
        False,
        "not one box with corners; another frame or form is never guessed",
        (("[5,6,70,80], [5,6,70,80]", "[5, 6, 70, 80]"), ("not [5,6,70,80]", "[5, 6, 70, 80]"))
        + (("x=5, y=6, w=65, h=74", "[5, 6, 70, 80]"), ("[70,80,5,6]", "[5, 6, 70, 80]"))
        + (("[5,6,70,80] or none", "[5, 6, 70, 80]"),),
    ),
    # text
    Row(
        "text",
        "the whole text",
        True,
        "case, spaces, punctuation and hyphens aside",
        (("The Red House.", "the red house"), ("coop", "co-op"), ("co op", "co-op"))
        + (("  to the  left ", "To the left"), ("The answer is Paris", "Paris")),
    ),
    Row(
        "text",
        "more, less or another number",
        False,
        "no part counts, and a sign or a point makes another number",
        (("red house", "the red house"), ("Paris, France", "Paris"), ("- 8", "8"), (".8", "8"))
        + (("8!", "8"), ("Yes, it is", "yes"), ("not Paris", "Paris")),
    ),
    *REPLIES,
)


def cases():
    """(row, answer, gold, choices, completion, mode) of every example."""
    for row in POLICY:
        for answer, gold, *choices in row.examples:
            text = f"<think>t</think><answer>{answer}</answer>" if row.mode == "strict" else answer
            mode = "lenient" if row.mode == "lenient" else "strict"
            yield row, answer, gold, list(choices[0]) if choices else None, text, mode
