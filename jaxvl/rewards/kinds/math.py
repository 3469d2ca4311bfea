# SPDX-License-Identifier: Apache-2.0
"""Mathematics: equal in shape, and in every part as numbers, as text, or by computer algebra.

Plain numbers and equal texts are decided here. The rest is looked at by a static guard
(`latex.problem`), and only what passes goes to math-verify in a worker process (`pool`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from jaxvl.rewards import pool, said
from jaxvl.rewards.kinds import latex, number, phrase, structure
from jaxvl.rewards.kinds.digits import UNITS, Number
from jaxvl.rewards.reasons import BAD_GOLD, CRASH, MATCH, MISMATCH, REFUSED, TIMEOUT

_TEXT_ONLY = re.compile(r"[^\d=+\-*/^\\<>|()\[\]{}]*")
_GLUED = re.compile(r"\d[a-zA-Z]\Z")
_LABEL = re.compile(r"[a-zA-Z\s\\{}_'°∠△]+(?:\(\s*[a-z]\s*\))?\s*|[\d\s+\-*/.,()×÷·]+|")
_SINGLE = re.compile(
    # but for the words "a" and "I", and the x of "2 x 10^3"
    r"(?<![a-zA-Z0-9])(?!a\s+[a-z]{3}|I\s+[a-z]{2}|x\s*10\s*\^)[a-zA-Z](?![a-zA-Z0-9])"
)


_BASE = re.compile(r"[0-9]\s*_")
_VALUE_OF = re.compile(r"\$?\s*([A-Za-z][A-Za-z. ]{2,60}?)\s*\$?\s*=\s*(.+)", re.DOTALL)
_WORD = re.compile(r"(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|pi|theta|alpha|beta)\b)[a-z]{4,}")
_COMMAND = re.compile(r"\\(?:text|mathrm|quad|left|right)(?![a-zA-Z])|[${}.]")


class _NoAnswer(Exception):
    """A comparison that came to no result; its only argument is the verdict's reason."""


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason."""
    what, gold = _of(gold)
    what_found, answer = _of(said.core(answer)[0])
    if what and what_found and not what & what_found:
        return 0.0, answer, MISMATCH  # the area, where the volume is asked for
    right = _number(gold)
    found = _number(answer, right)
    if right and found and not _named_apart(answer, gold):
        equal = number.matches(found, right)
        return float(equal), str(found), MATCH if equal else MISMATCH
    gold_latex, gold_unit = latex.split_unit(latex.to_latex(gold))
    found_latex, found_unit = latex.split_unit(latex.to_latex(answer))
    variable = _SINGLE.fullmatch(gold_latex) and not _TEXT_ONLY.fullmatch(found_latex)
    if _TEXT_ONLY.fullmatch(gold_latex) and not variable:  # x, but 2x/2 is x too
        return phrase.judge(answer, gold, choices)
    if "matrix}" in gold_latex + found_latex:
        gold_latex, found_latex = latex.matrix(gold_latex), latex.matrix(found_latex)
    if bool(_BASE.search(gold_latex)) != bool(_BASE.search(found_latex)):
        return 0.0, latex.compact(found_latex), MISMATCH  # 101 to the base 2
    canonical = latex.compact(found_latex)
    if latex.problem(gold_latex, gold_latex):
        return _prose(answer, gold)
    if latex.problem(found_latex, gold_latex):
        return 0.0, "", REFUSED
    if gold_unit and found_unit and gold_unit != found_unit:
        return 0.0, canonical, MISMATCH
    if "°" in (gold_unit, found_unit):
        gold_latex, found_latex = gold_latex + gold_unit, found_latex + found_unit
    right_tree = structure.parse(latex.degrees(gold_latex, found_latex))
    found_tree = structure.parse(latex.degrees(found_latex, gold_latex))
    try:
        equal = structure.equal(right_tree, found_tree, _same)
    except _NoAnswer as reason:
        return 0.0, canonical, reason.args[0]
    return float(equal), canonical, MATCH if equal else MISMATCH


def _of(text: str) -> tuple[frozenset[str], str]:
    """The words of what a value is of, and the value: "Surface area $= 5$ cm" is 5 cm."""
    found = _VALUE_OF.fullmatch(text.strip())
    if not found:
        return frozenset(), text
    words = found[1].lower().replace(".", "").split()
    if not any(_WORD.fullmatch(word) for word in words):
        return frozenset(), text
    return frozenset(words), found[2].replace("$", "")


def _prose(answer: str, gold: str) -> tuple[float, str, str]:
    """A gold that is a sentence with mathematics in it is met word for word."""
    if len(_WORD.findall(_COMMAND.sub(" ", gold.lower()))) < 2:
        return 0.0, "", BAD_GOLD
    found, right = ("".join(_COMMAND.sub("", text).lower().split()) for text in (answer, gold))
    return float(found == right), found, MATCH if found == right else MISMATCH


def _number(text: str, gold: Number | None = None) -> Number | None:
    """The plain number that a text is, perhaps with what it is of ("x = 5", "2 + 3 = 5"). By the
    `gold` a decimal comma is known.

    None where a letter may be a variable, and for an equation between expressions.
    """
    left, _, value = text.rpartition("=")
    variables = [letter for letter in _SINGLE.findall(value) if letter not in UNITS]
    if variables or _GLUED.search(text.strip().rstrip("$ ")) or not _LABEL.fullmatch(left):
        return None
    read = number.read(text, gold)
    return None if isinstance(read, str) else read


def _named_apart(answer: str, gold: str) -> bool:
    """x = 5 and y = 5 are two different answers."""
    names = [
        re.sub(r"[\s${}\\()]", "", text.partition("=")[0]) for text in (answer, gold) if "=" in text
    ]
    return len(names) == 2 and names[0] != names[1]


def _same(gold: str, found: str) -> bool:
    """Whether two expressions are equal; raises _NoAnswer."""
    if latex.compact(gold) == latex.compact(found):
        return True
    right = _number(gold)
    read = _number(found, right)
    if right and read:
        return number.matches(read, right)
    # Against a decimal an exact expression is rounded, as a number is; never the other way round.
    places = right.places if right else 0
    tolerance = float(Fraction(1, 2 * 10**places)) if places else 0.0
    outcome = pool.equal(gold, found, tolerance)
    if outcome in (TIMEOUT, CRASH, BAD_GOLD, REFUSED):
        raise _NoAnswer(outcome)
    return outcome == MATCH
