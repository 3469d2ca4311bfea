# SPDX-License-Identifier: Apache-2.0
"""Words: equality of the whole answer, case, spaces and punctuation aside. No substring counts."""

from __future__ import annotations

import re
import unicodedata

from jaxvl.rewards.reasons import MATCH, MISMATCH, UNREAD

# What makes a number another one: 3.5, .5, -2, 1/2, 5!
_INSIDE_NUMBERS = re.compile(r"(?<=\d)[.,:/](?=\d)|(?<!\w)-(?=\.?\d)|(?<![\w.])\.(?=\d)|(?<=\d)!")
_SIGN = re.compile(r"(?<!\w)([-+]) +(?=\.?\d)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason."""
    found, right = fold(answer), fold(gold)
    if not found:
        return 0.0, "", UNREAD
    equal = found == right or fold(_HYPHEN.sub("", answer)) == fold(_HYPHEN.sub("", gold))
    return float(equal), found, MATCH if equal else MISMATCH


def fold(text: str) -> str:
    """Lower case, one space between words, no punctuation but what makes a number (3.5, -2, 1/2).
    A hyphen between letters is a space; `judge` takes "e-mail" for "email" too.

    Text of nothing but punctuation stays as it is.
    """
    text = _SIGN.sub(r"\1", " ".join(text.casefold().split()))
    kept = {match.start() for match in _INSIDE_NUMBERS.finditer(text)}
    plain = "".join(
        " " if unicodedata.category(char)[0] == "P" and index not in kept and char != "%" else char
        for index, char in enumerate(text)
    )
    return " ".join(plain.split()) or text
