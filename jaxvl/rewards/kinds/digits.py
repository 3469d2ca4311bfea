# SPDX-License-Identifier: Apache-2.0
"""Numbers in digits: one word of a text, with its sign, currency, decimals, exponent and unit."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from fractions import Fraction

MAX_EXPONENT = 30

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


@dataclasses.dataclass(frozen=True)
class Number:
    """A value, its unit ("" none, "%") and the decimal places it is given to (0: it is exact)."""

    value: Fraction
    unit: str = ""
    places: int = 0

    def __str__(self) -> str:
        return f"{self.value}%" if self.unit == "%" else str(self.value)


_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<currency>[$€£¥]?)(?P<inner>-?)"
    r"(?:(?P<top>\d+)/(?P<bottom>\d+)"
    r"|(?P<whole>\d{1,3}(?:,\d{3})+|\d{1,3}(?:'\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d*)"
    r"(?P<decimals>\.\d+)?(?:[eE](?P<exponent>[+-]?\d{1,12}))?)"
    r"(?P<suffix>[^\d\s.,/+-][^\s]*)?",
    re.ASCII,
)
_SIMPLE = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
# 1.234,5 and 1.234.567 cannot be read in another way; 3,5 and 0,125 may be two numbers.
_COMMA = re.compile(r"([+-]?[$€£¥]?)(?:(\d{1,3}(?:\.\d{3})+),(\d+)|(\d{1,3}(?:\.\d{3}){2,}))(\D*)")
_LOOSE = re.compile(r"([+-]?[$€£¥]?\d+),(\d{1,2}|\d{4,}|(?<=\b0,)\d{3})(?![\d,.])")
_REWRITES = (
    (re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,;:! ()\[\]]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\displaystyle|\*\*|`"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%#])"), r"\1"),
    (re.compile(r"\^\{?\\circ\}?|\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|º"), "°"),
    (
        re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?)\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"),
        r" \1\2\3/\4\5 ",
    ),
    (re.compile(r"\\approx(?![a-zA-Z])|≈"), "="),
    (
        re.compile(
            r"(?:(?<![\w.^])|(?<=cdot)|(?<=times)|(?<=\dx))10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?(?!\s*[\^.])"
        ),
        r"1e\1",
    ),
    (re.compile(r"(?<=\d)\s*(?:×|\\times|\\cdot|·|⋅|\*|x)\s*1(?=e[+-]?\d)"), ""),
    (re.compile(r"(?<=[a-zA-Z])\s*\^\{?([23])\}?(?!\d)"), r"\1"),
    (re.compile(r"\$([^$]*)\$"), r"\1"),
    (re.compile(r"(?<=\d)\s*/\s*(?=\d)"), "/"),
    (
        re.compile(r"(?<![\w.,/])(\d{1,3}(?: \d{3})+)(?![\w/]|,\d| ?\d)"),
        lambda m: m[1].replace(" ", ""),
    ),
    # Chinese has no spaces; a character that makes another number stays glued to its digits.
    (
        re.compile(
            r"(?<=[\u4e00-\u9fff])(?<!负)(?=\d)|(?<=\d)(?=[\u4e00-\u9fff])(?![十百千万亿分半倍])"
        ),
        " ",
    ),
)
_RAISED = re.compile(r"(?<=10)([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_SCRIPT = re.compile(r"\d+")


def simple(text: str) -> Number | None:
    """The number of a text that is nothing but digits, a sign and a decimal point."""
    found = _SIMPLE.fullmatch(text)
    return _decimal(text, "", 0) if found else None


def plain(text: str) -> str:
    """A text with its numbers as ASCII words: LaTeX, powers of ten, digits of other scripts and
    groups of three set apart by spaces."""
    if not text.isascii():
        text = _RAISED.sub(lambda found: "^" + unicodedata.normalize("NFKC", found[1]), text)
        text = _SCRIPT.sub(_latin, text.replace("\u066b", ".").replace("\u066c", ","))
        text = text.replace("\u2212", "-")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _latin(found: re.Match) -> str:
    """The digits of one other script as 0 to 9; a mixture of two scripts stays as it is."""
    zeros = {ord(digit) - unicodedata.digit(digit) for digit in found[0]}
    return str(int(found[0])).zfill(len(found[0])) if len(zeros) == 1 else found[0]


def parse(word: str, decimal_comma: bool = False) -> Number | None:
    """A whole word as a number with an optional sign, currency and unit. With `decimal_comma` 3,5
    is read as three and a half."""
    if "," in word or "." in word:
        word = _COMMA.sub(_dotted, word, count=1) if _COMMA.fullmatch(word) else word
        word = _LOOSE.sub(r"\1.\2", word, count=1) if decimal_comma else word
    match = _NUMBER.fullmatch(word)
    if match is None or not (match["top"] or match["whole"] or match["decimals"]):
        return None
    suffix, currency = match["suffix"] or "", match["currency"]
    unit = UNITS.get(suffix, UNITS.get(suffix.lower(), "") if len(suffix) > 1 else "")
    if (suffix and not unit) or (currency and unit) or (match["inner"] and not currency):
        return None
    minus = (match["sign"] == "-") != (match["inner"] == "-")
    unit = UNITS[currency] if currency else unit
    sign = -1 if minus else 1
    if match["top"]:
        bottom = int(match["bottom"])
        return Number(Fraction(sign * int(match["top"]), bottom), unit) if bottom else None
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    whole = (match["whole"] or "0").replace(",", "").replace("'", "")
    return _decimal(f"{'-' * minus}{whole}{match['decimals'] or ''}", unit, exponent)


def _decimal(text: str, unit: str, exponent: int) -> Number:
    whole, _, decimals = text.partition(".")
    value = Fraction(int(whole + decimals)) * Fraction(10) ** (exponent - len(decimals))
    return Number(value, unit, max(0, len(decimals) - exponent))


def _dotted(found: re.Match) -> str:
    whole = (found[2] or found[4]).replace(".", "")
    return f"{found[1]}{whole}{'.' + found[3] if found[3] else ''}{found[5]}"
