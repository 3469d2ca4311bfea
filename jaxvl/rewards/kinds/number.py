# SPDX-License-Identifier: Apache-2.0
"""Numbers: exactly one in the answer, compared as fractions.

`<answer>12 cm</answer>` is 12; "5 or 6", "2x", "5!", "less than 5" and "3-5" are no number. What is
read is read whole: a word with a digit that is not understood makes the answer unreadable, so that
no part of an expression earns a reward.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

MAX_EXPONENT = 30

_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
}
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "dozen": 12}
# A word that makes another number of the one before it, or turns what follows into a bound.
_PARTS = re.compile(
    r"(?:hal(?:f|ves)|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?|squared|cubed|"
    r"factorial|or|and|plus|minus|divided"
)
_BOUNDS = {
    *("not", "than", "least", "most", "under", "over", "above", "below", "except", "between"),
    *("plus", "times"),
}
UNITS = {
    alias: names.split()[0]
    for names in (
        "% percent percentage pct",
        "° degree degrees deg",
        "°C celsius",
        "°F fahrenheit",
        "rad radian radians",
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "dm",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms",
        "t ton tons tonne tonnes",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "ms millisecond milliseconds",
        "s sec secs second seconds",
        "min mins minute minutes",
        "h hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "mm2 mm²",
        "cm2 cm²",
        "m2 m²",
        "km2 km²",
        "mm3 mm³",
        "cm3 cm³",
        "m3 m³",
        "ml milliliter milliliters millilitre millilitres",
        "L l liter liters litre litres",
        "km/h kmh kph",
        "m/s",
        "mph",
        "Hz hz hertz",
        "V volt volts",
        "W watt watts",
        "N newton newtons",
        "J joule joules",
        "Pa pascal pascals",
        "$ dollar dollars usd",
        "€ euro euros eur",
        "£ gbp",
        "¥ yen yuan rmb",
        "cent cents ¢",
    )
    for alias in names.split()
}
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<currency>[$€£¥]?)"
    r"(?:(?P<top>\d+)/(?P<bottom>\d+)"
    r"|(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?P<decimals>\.\d+)?(?:[eE](?P<exponent>[+-]?\d{1,12}))?)"
    r"(?P<suffix>[^\d\s.,/+-][^\s]*)?",
    re.ASCII,
)
_LATEX = (
    (re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\*\*|`"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%#])"), r"\1"),
    (re.compile(r"\^\{?\\circ\}?|\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|º"), "°"),
    (
        re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?)\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"),
        r" \1\2\3/\4\5 ",
    ),
    (re.compile(r"\\approx(?![a-zA-Z])|≈"), "="),
    (re.compile(r"(?<=\d)\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?"), r"e\1"),
    (re.compile(r"(?<=[a-zA-Z])\s*\^\{?([23])\}?(?!\d)"), r"\1"),
    (re.compile(r"\$([^$]*)\$"), r"\1"),
    (re.compile(r"(?<=\d)\s*/\s*(?=\d)"), "/"),
    # Chinese has no spaces; a character that makes another number stays glued to its digits.
    (
        re.compile(
            r"(?<=[\u4e00-\u9fff])(?<!负)(?=\d)|(?<=\d)(?=[\u4e00-\u9fff])(?![十百千万亿分半倍])"
        ),
        " ",
    ),
)
_COMPARED = re.compile(r"[<>≤≥≠±]|!=")
_EXPRESSION = re.compile(r"[\^√∑∫∏|{}\\×÷·*_∞]")
_SOLUTIONS = re.compile(
    r"(?<![a-zA-Z])[a-zA-Z]\s*=[^=]*(?:[,;]|\bor\b|\band\b)[^=]*="
)  # x = 1, y = 2
_DIGIT = re.compile(r"[0-9]")


@dataclasses.dataclass(frozen=True)
class Number:
    """A value, its unit ("" none, "%") and the decimal places it is given to (0: it is exact)."""

    value: Fraction
    unit: str = ""
    places: int = 0

    def __str__(self) -> str:
        return f"{self.value}%" if self.unit == "%" else str(self.value)


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason."""
    right = read(gold)
    if isinstance(right, str):
        return 0.0, "", BAD_GOLD
    found = read(answer)
    if isinstance(found, str):
        return 0.0, "", found
    equal = matches(found, right)
    return float(equal), str(found), MATCH if equal else MISMATCH


def matches(found: Number, gold: Number) -> bool:
    """A decimal gold is met within half a unit of its last place, any other exactly.

    x% is x/100, and x where the other is a bare number; two percentages are compared as they are.
    A unit counts where both have one.
    """
    percent = (found.unit == "%", gold.unit == "%")
    if percent == (True, False) and not gold.unit:
        return _close(found.value, gold) or _close(found.value / 100, gold)
    if percent == (False, True) and not found.unit:
        return _close(found.value, gold) or _close(found.value * 100, gold)
    if found.unit and gold.unit and found.unit != gold.unit:
        return False
    return _close(found.value, gold)


def _close(value: Fraction, gold: Number) -> bool:
    tolerance = Fraction(1, 2 * 10**gold.places) if gold.places else Fraction(0)
    return abs(value - gold.value) <= tolerance


def read(text: str) -> Number | str:
    """The one number of a text, else the reason why there is none."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    if _SOLUTIONS.search(text):
        return SEVERAL
    whole, text = text, text.rpartition("=")[2]
    if _COMPARED.search(whole) or _EXPRESSION.search(text):
        return UNREAD
    words = [word for word in (part.strip("()[]\"',;:?") for part in text.split()) if word]
    words = [word.rstrip(".") for word in words]
    if _DIGIT.search(text):
        return _from_digits(words)
    return _from_words([part for word in words for part in word.lower().split("-")])


def _from_digits(words: list[str]) -> Number | str:
    numbers: list[tuple[int, Number]] = []
    for index, word in enumerate(words):
        if not _DIGIT.search(word):
            if word in ("+", "-", "/", "·", "="):
                sign = word in "+-" and index == 0 and len(words) > 1 and words[1][:1].isdigit()
                if not sign:
                    return UNREAD
            continue
        if word[0].isalpha() or word[0] == "#":
            if word[0] == "#" and word[1:].isdigit():
                word = word[1:]
            else:
                continue  # digits glued to letters, as in cm2 or Q3
        number = _parse(word)
        if number is None:
            return UNREAD
        numbers.append((index, number))
    if len(numbers) == 2 and _is_mixed(words, numbers):
        (first, whole), (_, part) = numbers
        sign = -1 if words[first].startswith("-") else 1
        words = [*words[: first + 1], *words[first + 2 :]]
        numbers = [(first, Number(whole.value + sign * part.value, part.unit))]
    if len(numbers) != 1:
        return SEVERAL if numbers else UNREAD
    index, number = numbers[0]
    return _in_context(words, index, number)


def _is_mixed(words: list[str], numbers: list[tuple[int, Number]]) -> bool:
    """3 1/2: a whole number, then at once a proper fraction."""
    (first, whole), (second, part) = numbers
    proper = "/" in words[second] and 0 < part.value < 1 and words[second][0].isdigit()
    return second == first + 1 and words[first].lstrip("+-").isdigit() and proper


def _in_context(words: list[str], index: int, number: Number) -> Number | str:
    """The number with what its neighbours say: a sign, a magnitude, a unit; or why it is none."""
    before = words[index - 1].lower() if index else ""
    after = words[index + 1].lower() if index + 1 < len(words) else ""
    signed = words[index][0] in "+-"
    variable = signed and len(before) == 1 and before.isalpha()  # x -5
    variable |= after in ("x", "y", "z", "n", "k")  # 5 x is no 5
    if before in _BOUNDS or _PARTS.fullmatch(after) or variable:
        return UNREAD
    if before in ("minus", "negative", "-"):
        number = dataclasses.replace(number, value=-number.value)
    if after in _MAGNITUDES:
        number = Number(number.value * _MAGNITUDES[after], number.unit)
    elif index + 1 < len(words) and not number.unit:
        word = words[index + 1]
        unit = UNITS.get(word, UNITS.get(after, "") if len(after) > 1 else "")
        number = dataclasses.replace(number, unit=unit)
    return number


def _parse(word: str) -> Number | None:
    """A whole word as a number with an optional sign, currency and unit."""
    match = _NUMBER.fullmatch(word)
    if match is None or not (match["top"] or match["whole"] or match["decimals"]):
        return None
    suffix, currency = match["suffix"] or "", match["currency"]
    unit = UNITS.get(suffix, UNITS.get(suffix.lower(), "") if len(suffix) > 1 else "")
    if (suffix and not unit) or (currency and unit):
        return None
    sign = -1 if match["sign"] == "-" else 1
    unit = UNITS[currency] if currency else unit
    if match["top"]:
        bottom = int(match["bottom"])
        return Number(Fraction(sign * int(match["top"]), bottom), unit) if bottom else None
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    decimals = (match["decimals"] or ".")[1:]
    digits = (match["whole"] or "0").replace(",", "") + decimals
    value = Fraction(sign * int(digits)) * Fraction(10) ** (exponent - len(decimals))
    return Number(value, unit, max(0, len(decimals) - exponent))


def _from_words(words: list[str]) -> Number | str:
    """A number word from zero to twenty, where there is exactly one."""
    found = [index for index, word in enumerate(words) if word in _WORDS]
    if len(found) != 1:
        return SEVERAL if found else UNREAD
    return _in_context(words, found[0], Number(Fraction(_WORDS[words[found[0]]])))
