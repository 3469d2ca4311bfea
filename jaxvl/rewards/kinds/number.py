# SPDX-License-Identifier: Apache-2.0
"""Numbers: exactly one in the answer, compared as fractions.

`<answer>12 cm</answer>` is 12; "5 or 6", "2x", "5!", "less than 5" and "3-5" are no number. What is
read is read whole: a word with a digit that is not understood makes the answer unreadable, and a
number counts only where the words around it leave it what it is. "The square of 5", "all but 5",
"isn't 5" say other things than 5; "there are 5 bars below 40" says 5.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from jaxvl.rewards import said
from jaxvl.rewards.kinds import digits, numerals
from jaxvl.rewards.kinds.digits import UNITS, Number
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

_COMPARED = re.compile(r"[<>≤≥≠±]|!=|\\not|\\neq?(?![a-zA-Z])")
_EXPRESSION = re.compile(r"[\^√∑∫∏|{}\\×÷·*_∞]")
_SOLUTIONS = re.compile(
    r"(?<![a-zA-Z])[a-zA-Z]\s*=[^=]*(?:[,;]|\bor\b|\band\b)[^=]*="
)  # x = 1, y = 2
_DIGIT = re.compile(r"\d")
_ALTERNATIVES = re.compile(r"\b(?:or|either|versus|vs|whichever)\b|或|还是")
_PHRASES = (  # as they are said -> as they are meant
    (re.compile(r"\b(it|that|there|here|this|he|she|what)'s\b"), r"\1 is"),
    (
        re.compile(
            r"\b(?:equals?|(?:adds?|sums?|comes?|amounts?|works?|rounds?|evaluates?|simplifies|"
            r"reduces|is|are|was|be) (?:up |out |equal |about |approximately |roughly )*to)\b"
        ),
        "is",
    ),
    (
        re.compile(
            r"\ban? (?:(?:grand|whole|final|combined|measured) )?(?:total|value|count|length|area|"
            r"volume|perimeter|height|width|depth|age|distance|speed|cost|price|amount|measure|"
            r"radius|diameter|weight|mass|score|probability|population|result|answer|size|"
            r"temperature|angle|slope|number) of\b"
        ),
        "",
    ),
)
_COPULAS = frozenset(
    "is are was were be equals : gives makes totals shows reads has contains measures".split()
)
_FILLING = frozenset(
    "exactly about approximately approx around roughly only just precisely simply now also "
    "therefore thus indeed still already currently clearly a an".split()
)
_SIGNS = frozenset(("minus", "negative", "-"))
# Before a number they make it part of something else: "of the two", "less than 5", "step 5".
_GOVERNS = frozenset(
    "of than from below above under over between except without minus plus times beyond besides "
    "against within per divided multiplied raised to into until till before after and & the these "
    "those this that both all any every each another other figure fig step question problem page "
    "chapter section equation eq table row column item case part exercise example".split()
)
# Anywhere before a number, or close behind it, they make another one of it.
_OPERATORS = frozenset(
    "square squares squared cube cubes cubed root roots sqrt cbrt log ln lg sin cos tan exp "
    "half halves double doubled twice triple thrice factorial inverse reciprocal opposite "
    "multiple multiples factor factors divisor power powers minimum maximum min max least most "
    "fewer less greater smaller larger bigger higher lower exceed exceeds exceeding almost "
    "nearly virtually close next previous up upwards mod modulo tops".split()
)
_BEHIND = frozenset(
    "squared cubed factorial least most minimum maximum max less fewer up upwards tops short plus "
    "minus divided out too".split()
)
# With these begins a description of what was counted: "3 bars below 40".
_DESCRIBES = frozenset(
    "with that which whose who having where in on at below above under over between among within "
    "from near behind beside for by of".split()
)
# "one" is a number behind these, a pronoun behind other words.
_COUNTS = (
    _COPULAS
    | _FILLING
    | frozenset(
        "see sees count counted have has had find finds found contains shows show minus negative "
        "answer wears wearing holds with and".split()
    )
)
_EXISTS = ("there is", "there are", "there was", "there were")
_SQUARE = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
_ITEM = "\ue000"  # a number in a list of words


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason."""
    right = read_gold(gold)
    if isinstance(right, str):
        return 0.0, "", BAD_GOLD
    found = read(answer, right)
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


def _close(value, gold: Number) -> bool:
    return abs(value - gold.value) * 2 * 10**gold.places <= (1 if gold.places else 0)


def read(text: str, gold: Number | None = None) -> Number | str:
    """The one number of a text, else the reason why there is none.

    A `gold` that is not whole says how "3,5" is meant: with a decimal comma.
    """
    simple = digits.simple(text)
    if simple is not None:
        return simple
    comma = gold is not None and gold.value.denominator > 1
    text, _ = said.core(digits.plain(text))
    if _SOLUTIONS.search(text):
        return SEVERAL
    *left, value = text.split("=")
    if _COMPARED.search(text) or _EXPRESSION.search(value):
        return UNREAD
    if left and said.NEGATIVE.search("=".join(left)):
        return UNREAD
    words = _words(value)
    between = [digits.parse(part.strip(" $"), comma) for part in left]
    items = _items(words, comma)
    found = items if isinstance(items, str) else _spoken(items, "(" in value)
    if isinstance(found, Number) and any(n and n.value != found.value for n in between):
        return SEVERAL  # A = 5 = 6
    return found


@functools.lru_cache(10_000)  # a gold is met by every completion of its group
def read_gold(text: str) -> Number | str:
    """`read` of a right answer."""
    return read(text)


def _words(text: str) -> list[str]:
    """The words of a text without punctuation, but for a colon, which is a word of its own."""
    for pattern, meant in _PHRASES:
        if not text.isdigit():
            text = pattern.sub(meant, text)
    words = []
    for part in text.split():
        word = part.strip("()[]\"',;:?").rstrip(".")
        word = word if _DIGIT.search(word) else word.rstrip("!.")
        if word:
            words.append(word)
        if (part.endswith(":") and len(part) > 1) or part == ":":
            words.append(":")
    return words


def _items(words: list[str], comma: bool) -> list[str | Number] | str:
    """The words with their numbers read, mixed numbers and scales included; UNREAD where a word
    with a digit, or a phrase of number words, is none."""
    lower = [word.lower() for word in words]
    lower = [part for word in lower for part in _parted(word)]
    if len(lower) != len(words):
        words = [part for word in words for part in _parted(word)]
    items: list[str | Number] = []
    at = 0
    while at < len(words):
        word, small = words[at], lower[at]
        stop = numerals.run(lower, at)
        at += 1
        if _DIGIT.search(word):
            if word[0] == "#" and word[1:].isdigit():
                word = word[1:]
            elif word[0].isalpha() or word[0] == "#":
                items.append(small)  # digits glued to letters, as in cm2 or Q3
                continue
            number = digits.parse(word, comma)
            if number is None:
                return UNREAD
            items.append(number)
        elif word in ("+", "-", "/", "·"):
            following = words[at : at + 1]
            if word == "/" or items or not following or not following[0][:1].isdigit():
                return UNREAD
            items.append(word)
        elif stop > at - 1 and not _scales(items, lower[at - 1 : stop]):
            phrase = lower[at - 1 : stop]
            if phrase in ([small] if small in numerals.PARTS else []) and len(words) > 1:
                items.append(small)  # an ordinal, or "the left half"
                continue
            if phrase == ["one"] and items and items[-1] not in _COUNTS:
                items.append(small)  # the left one
                continue
            value = numerals.value(" ".join(phrase))
            if value is None:
                return UNREAD
            items.append(Number(value))
            at = stop
        else:
            items.append(small if len(word) > 1 else word)
    return _joined(items)


def _parted(word: str) -> list[str]:
    """The words of "forty-two"; other words with a hyphen as they are."""
    parts = word.split("-")
    known = len(parts) > 1 and all(part.lower() in numerals.WORDS for part in parts)
    return parts if known else [word]


def _scales(items: list[str | Number], phrase: list[str]) -> bool:
    """Whether a phrase is what the number before it is counted in: 2 million, 3 quarters."""
    after = bool(items) and isinstance(items[-1], Number)
    return after and len(phrase) == 1 and phrase[0] in numerals.SCALES | numerals.PARTS


def _joined(items: list[str | Number]) -> list[str | Number] | str:
    """Items with "2 million", "3 quarters", "3 1/2" and "2 and a half" as one number each."""
    out: list[str | Number] = []
    for item in items:
        last = out[-1] if out else None
        if isinstance(last, Number) and item in numerals.SCALES:
            out[-1] = Number(last.value * numerals.SCALES[item], last.unit)
        elif isinstance(last, Number) and item in numerals.PARTS:
            if not item.endswith("s") and last.value != 1:
                return UNREAD
            out[-1] = Number(last.value / numerals.PARTS[item], last.unit)
        elif isinstance(item, Number) and _is_part(item):
            whole = out[-2] if last == "and" and len(out) > 1 else last
            if not isinstance(whole, Number) or whole.value.denominator > 1 or whole.places:
                out.append(item)
                continue
            del out[-1 if whole is last else -2 :]
            sign = -1 if whole.value < 0 else 1
            out.append(Number(whole.value + sign * item.value, item.unit))
        else:
            out.append(item)
    return out


def _is_part(number: Number) -> bool:
    """A proper fraction that is given as one."""
    return 0 < number.value < 1 and not number.places


def _spoken(items: list[str | Number], glossed: bool) -> Number | str:
    """The number that a sentence says, or why it says none. `glossed`: it has brackets."""
    numbers = {at: item for at, item in enumerate(items) if isinstance(item, Number)}
    places = list(numbers)
    if not places:
        return UNREAD
    if len(items) == 1:
        return items[0]
    twice = glossed and len(places) == 2 and places[1] == places[0] + 1
    if twice and numbers[places[0]].value == numbers[places[1]].value:  # 3 (three)
        del items[places.pop()]
    words = [_ITEM if isinstance(item, Number) else item for item in items]
    text = " ".join(words)
    if _ALTERNATIVES.search(text):
        return SEVERAL if len(places) > 1 else UNREAD
    exists = " ".join(words[:2]) in _EXISTS
    first, stop = places[0], 1 if exists else _last_copula(words, places[-1])
    if stop >= 0:
        first = next(at for at in places if at > stop)
        if all(word == _ITEM or word == ":" for word in words[:stop]) and first != places[0]:
            return SEVERAL
    if said.negated(text, " ".join(words[: max(stop, 0)])):
        return UNREAD
    number = numbers[first]
    before, after = words[stop + 1 : first], words[first + 1 :]
    if before and before[-1] in _SIGNS:
        number, before = dataclasses.replace(number, value=-number.value), before[:-1]
    if before and before[-1] == "+":
        before = before[:-1]
    problem = _before(before, number) or _after(after, exists)
    return problem or _with_unit(number, after, numbers[first])


def _last_copula(words: list[str], last: int) -> int:
    """Where the last "is" before a number stands, -1 where there is none."""
    return next((at for at in range(last - 1, -1, -1) if words[at] in _COPULAS), -1)


def _before(words: list[str], number: Number) -> str:
    """Why a number behind these words is not what they say, "" where it is."""
    while words and words[-1] in _FILLING:
        words = words[:-1]
    if not words:
        return ""
    if words[-1] in _GOVERNS or not _OPERATORS.isdisjoint(words):
        return UNREAD
    signed = number.value < 0 and len(words[-1]) == 1 and words[-1].isalpha()  # x -5
    return UNREAD if signed else ""


def _after(words: list[str], exists: bool) -> str:
    """Why a number before these words is not what they say, "" where it is. Where a sentence says
    how many there are, the rest of it describes them."""
    near = words
    for at, word in enumerate(words):
        describes = word in _DESCRIBES or (exists and (word in _BEHIND or word.endswith("ed")))
        if describes and (at or _ITEM not in words):
            near = words[:at]
            break
    rest = words[len(near) :]
    if _ITEM in near:
        return SEVERAL
    if near[:2] == ["more", "than"]:
        return UNREAD
    if (
        near
        and near[0].lower() in ("and", "x", "y", "z", "n", "k", "/", "times")
        and (near[0] != "times" or _ITEM in rest)
    ):
        return UNREAD
    powered = len(near) > 1 and near[0] in UNITS and near[1] in _SQUARE  # 5 meters squared
    close = rest[:3] if rest[:1] == ["at"] else []  # "5 at the most" too
    operated = not _BEHIND.isdisjoint(near[2 * powered :] + close)
    compared = _ITEM in words and ("than" in near or words[0] in ("percent", "%"))
    if operated or compared or ("more" in near and "and" in near):
        return UNREAD
    numbers = rest.count(_ITEM)
    if numbers and "and" in rest and not ("between" in rest and numbers == 2):
        return SEVERAL
    return ""


def _with_unit(number: Number, after: list[str], shown: Number) -> Number:
    """The number with the unit that follows it: "5 square meters" is in m2."""
    if number.unit or not after:
        return number
    power = ""
    if after[0] in _SQUARE and len(after) > 1:
        power, after = _SQUARE[after[0]], after[1:]
    elif len(after) > 1 and after[1] in _SQUARE:
        power = _SQUARE[after[1]]
    word = after[0]
    unit = UNITS.get(word, UNITS.get(word.lower(), "") if len(word) > 1 else "")
    unit = UNITS.get(unit + power, unit + power) if power and unit else unit
    return dataclasses.replace(number, unit=unit)
