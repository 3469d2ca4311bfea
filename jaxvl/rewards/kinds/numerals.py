# SPDX-License-Identifier: Apache-2.0
"""Numbers in English words: "forty-two", "two hundred and five thousand", "three quarters", "two
and a half", "half a million", "a dozen". A phrase is read as a whole or not at all."""

from __future__ import annotations

import functools
import re
from fractions import Fraction

_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL = {
    "zero": 0,
    "a": 1,
    "an": 1,
    **{word: value for value, word in enumerate(_UNITS, 1)},
    **{word: value for value, word in enumerate(_TEENS, 10)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth".split()
PARTS = {
    **{word: n for n, word in enumerate(_PARTS, 2)},
    **{f"{word}s": n for n, word in enumerate(_PARTS, 2)},
    **{"halves": 2, "fourth": 4, "fourths": 4, "hundredth": 100, "hundredths": 100},
}
# Words of a number. "a" and "and" are only between or before such.
WORDS = frozenset([*SMALL, *SCALES, *PARTS]) - {"a", "an"}
_JOINING = frozenset(("a", "an", "and", "of", "point"))

_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?: (?:{'|'.join(_UNITS)}))?|{'|'.join(_TEENS + _UNITS)})"
_GROUP = rf"(?:(?:{'|'.join(['an?', *_TEENS, *_UNITS])}) hundred(?:(?: and)? {_SMALL})?|{_SMALL})"
_LARGE = "".join(
    rf"(?:(?:(?:and )?{_GROUP}|an?) {scale}(?: |\Z))?"
    for scale in ("trillion", "billion", "million", "thousand")
)
_CARDINAL = re.compile(rf"zero|(?=\w){_LARGE}(?:(?:and )?{_GROUP})?")
_DENOMINATORS = "|".join(sorted(PARTS, key=len, reverse=True))
_FRACTION = re.compile(rf"(?:(?P<top>.+) )?(?P<part>{_DENOMINATORS})")
_SCALED = re.compile(
    r"(?P<some>.+?)(?: of)?(?: an?)? (?P<scale>hundred|thousand|million|billion|trillion|dozen)"
)
_NUMERAL = "|".join(["zero", *_UNITS])
_POINTED = re.compile(rf"(?P<whole>.+) point (?P<digits>(?:{_NUMERAL})(?: (?:{_NUMERAL}))*)")
_MIXED = re.compile(rf"(?P<whole>.+) and (?P<rest>.+ (?:{_DENOMINATORS}))")


def run(words: list[str], start: int) -> int:
    """Where the phrase of number words that begins at `start` ends; `start` where none does."""
    stop = at = start
    while at < len(words) and (words[at] in WORDS or words[at] in _JOINING):
        at += 1
        if words[at - 1] in WORDS:
            stop = at
    return stop if words[start] not in ("and", "of", "point") else start


@functools.lru_cache(10_000)
def value(phrase: str) -> Fraction | None:
    """The number that a phrase of words with single spaces says, None where it says none."""
    if len(phrase) > 200:
        return None
    if phrase not in ("a", "an") and _CARDINAL.fullmatch(phrase):
        return Fraction(_cardinal(phrase.split()))
    if phrase in ("dozen", "a dozen"):
        return Fraction(12)
    fraction = _fraction(phrase)
    if fraction is not None:
        return fraction
    pointed = _POINTED.fullmatch(phrase)
    if pointed:
        whole = value(pointed["whole"])
        digits = "".join(str(SMALL[word]) for word in pointed["digits"].split())
        return None if whole is None else whole + Fraction(int(digits), 10 ** len(digits))
    mixed = _MIXED.fullmatch(phrase)
    if mixed:
        whole, rest = value(mixed["whole"]), _fraction(mixed["rest"])
        if whole is None or rest is None:
            return None
        return whole + rest if whole.denominator == 1 and rest < 1 else None
    scaled = _SCALED.fullmatch(phrase)
    if scaled:  # half a million, two dozen, two and a half thousand
        some = value(scaled["some"])
        if some is None or (some.denominator == 1 and scaled["scale"] != "dozen"):
            return None
        return some * SCALES[scaled["scale"]]
    return None


def _cardinal(words: list[str]) -> int:
    total = group = 0
    for word in words:
        if word == "hundred":
            group *= 100
        elif word in SCALES:
            total, group = total + group * SCALES[word], 0
        elif word != "and":
            group += SMALL[word]
    return total + group


def _fraction(phrase: str) -> Fraction | None:
    """half, a third, two thirds, three fourths: a third needs its "a", for it is an ordinal."""
    found = _FRACTION.fullmatch(phrase)
    if not found:
        return None
    top, part = found["top"], found["part"]
    if top is None:
        return Fraction(1, 2) if part == "half" else None
    count = 1 if top in ("a", "an", "one") else value(top)
    if count is None or count.denominator > 1 or count > 999:
        return None
    plural = part.endswith("s")
    return Fraction(count, PARTS[part]) if plural == (count != 1) else None
