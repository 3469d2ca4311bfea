# SPDX-License-Identifier: Apache-2.0
"""Random completions for property tests: plausible ones, mutated ones and plain noise."""

import random
from fractions import Fraction

KINDS = ("number", "mcq", "math", "bbox", "text")

_PIECES = (
    "<answer> </answer> <think> </think> \\boxed{ } { $ $$ \\( \\) \\[ \\] ``` ** <|im_end|> "
    "3 -7 0.5 1/2 1e5 50% 12cm A B. (C) [D] option answer is: x = y + - * / ^ ^{ _ "
    "\\frac{1}{2} \\sqrt{3} sqrt( √ π ² ½ ∞ ≤ , ; or and not { } ( ) [0.1,0.2,0.3,0.4] | ! % ° "
    "\\pi \\sin \\infty \\cup \\in \\pm left right __import__ 9^9^9 99999999! "
    "\u202e \u200b \ud800 \x00 数 ٣ １ \n \t"
).split(" ")
_WORDS = "the chair is to left of lamp red four boxes so wait check again A B 3 7 = then".split()


def golds(draw: random.Random, kind: str) -> str:
    """A right answer of a kind."""
    if kind == "number":
        value = Fraction(draw.randint(-999, 999), draw.choice((1, 1, 1, 2, 7)))
        forms = (str(value), str(draw.randint(0, 99)), f"{draw.uniform(-9, 9):.2f}", "50%", "12 cm")
        return draw.choice(forms)
    if kind == "mcq":
        return draw.choice(("A", "B", "(c)", "D.", "B, D"))
    if kind == "bbox":
        x, y = draw.random(), draw.random()
        return f"[{x:.3f}, {y:.3f}, {x + 0.1 + draw.random():.3f}, {y + 0.1 + draw.random():.3f}]"
    if kind == "text":
        return " ".join(draw.choices(_WORDS, k=draw.randint(1, 4)))
    a, b = draw.randint(2, 9), draw.randint(2, 9)
    return draw.choice(
        (
            f"{a}\\sqrt{{{b}}}",
            f"y={a}x+{b}",
            f"\\{{{a}, {a + b}\\}}",
            f"({a}, {b})",
            f"[{-a}, {b})",
            f"\\frac{{\\pi}}{{{a}}}",
            f"x^{a}-{b}",
            f"{a}",
            f"x<{b}",
        )
    )


def noise(draw: random.Random) -> str:
    """Anything at all."""
    how = draw.random()
    if how < 0.4:
        return "".join(draw.choices(_PIECES, k=draw.randint(0, 30)))
    if how < 0.7:
        return " ".join(draw.choices(_PIECES + _WORDS, k=draw.randint(0, 40)))
    top = draw.choice((127, 0x3000, 0x10FFFF))
    return "".join(chr(draw.randint(0, top)) for _ in range(draw.randint(0, 60)))


def mutated(draw: random.Random, text: str) -> str:
    """The text with a few letters changed, doubled, dropped or moved."""
    letters = list(text)
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(letters))
        change = draw.randint(0, 3)
        if change == 0:
            letters[place:place] = draw.choice(_PIECES)
        elif change == 1:
            del letters[place : place + draw.randint(1, 3)]
        elif change == 2:
            letters[place:place] = letters[place : place + 8] * draw.randint(1, 3)
        else:
            draw.shuffle(letters[place : place + 5])
    return "".join(letters)


def thought(draw: random.Random) -> str:
    """What a model may think before it answers: anything, ended by `</think>`."""
    return draw.choice(("", "<think>")) + noise(draw) + "</think>"


def completion(draw: random.Random, answer: str) -> str:
    """A completion around an answer: well-formed, mutated, or noise."""
    formed = f"{thought(draw)}\n<answer>{answer}</answer>"
    how = draw.random()
    if how < 0.4:
        return formed
    return mutated(draw, formed) if how < 0.75 else f"{thought(draw)}{noise(draw)}{answer}"
