# SPDX-License-Identifier: Apache-2.0
"""Words: equality of the whole answer, case, spaces and punctuation aside. No substring counts."""

from __future__ import annotations

import re
import unicodedata

from jaxvl.rewards.reasons import MATCH, MISMATCH, UNREAD

_INSIDE_NUMBERS = re.compile(r"(?<=\d)[.,:/](?=\d)|(?<!\w)-(?=\.?\d)")


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason."""
    found, right = fold(answer), fold(gold)
    if not found:
        return 0.0, "", UNREAD
    return float(found == right), found, MATCH if found == right else MISMATCH


def fold(text: str) -> str:
    """Lower case, one space between words, no punctuation but what makes a number (3.5, -2, 1/2).

    Text of nothing but punctuation stays as it is.
    """
    text = " ".join(text.casefold().split())
    kept = {match.start() for match in _INSIDE_NUMBERS.finditer(text)}
    plain = "".join(
        " " if unicodedata.category(char)[0] == "P" and index not in kept and char != "%" else char
        for index, char in enumerate(text)
    )
    return " ".join(plain.split()) or text
