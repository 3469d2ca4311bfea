# SPDX-License-Identifier: Apache-2.0
"""Choices: the letter of an option, or its exact text. An unclear answer is no answer."""

from __future__ import annotations

import re
import string

from jaxvl.rewards.kinds.phrase import fold
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

# Without known choices; I is the pronoun.
_LETTERS = "ABCDEFGHJ"

_DRESS = re.compile(r"[*`\"'$]|\\(?:left|right)(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:boxed|fbox|text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
_ALONE = re.compile(r"[\[(]?\s*([A-Za-z0-9])\s*[\])]?\s*[.:,;)!?、。]*")
# (B) and [B] anywhere; B. B) B: and B、 as the head of an option's text
_BRACKETED = re.compile(r"(?<![A-Za-z0-9_])[(\[]\s*([A-Z0-9])\s*[)\]]")
_HEAD = re.compile(r"(?<![A-Za-z0-9_°])(?:([A-Z])\s*[.):、]|([0-9])\s*[.):、](?![0-9]))")
_SAID = re.compile(
    r"\b(?i:answer|option|choice|letter)(?i:\s+(?:is|would\s+be))?\s*:?\s*"
    r"[(\[]?((?!A\s+[a-z])[A-Z0-9])(?![A-Za-z0-9_'])"
)
_STANDALONE = re.compile(r"(?<![A-Za-z0-9_'°\\])(?<!\d )([A-Z])(?![A-Za-z0-9_'])")
_ARTICLE = re.compile(r"(?<![A-Za-z0-9_])A(?=\s+[a-z])")
_SEVERAL = re.compile(r"\s*(?:[,;&、和与及]|\band\b|\s)\s*")
_THEY_ARE = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+)?(?:answers?|options?|choices?)\s*(?:are\b|is\b|:)?\s*:?",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:\b(?:not|neither|nor|except|isn'?t|never)\b)", re.IGNORECASE)


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form (the letters, else the folded text) and reason."""
    right = _gold(gold, choices)
    if not right:
        return 0.0, "", BAD_GOLD
    if not isinstance(right, frozenset):  # a gold that is text, without choices to find it in
        found, known = fold(answer), fold(right)
        return float(found == known), found, MATCH if found == known else MISMATCH
    labels = string.digits if right <= set(string.digits) else _labels(choices)
    found = read(answer, labels, choices)
    if isinstance(found, str):
        return 0.0, "", found
    equal = found == right
    return float(equal), ", ".join(sorted(found)), MATCH if equal else MISMATCH


def _gold(gold: str, choices: list[str]) -> frozenset[str] | str:
    """The letters that are right; the gold itself where it is text and no choices are known; ""
    where it is none of the choices."""
    found = read(gold, _labels(choices), choices)
    if isinstance(found, frozenset):
        return found
    alone = _ALONE.fullmatch(gold)
    if alone and alone[1].isdigit() and not choices:
        return frozenset(alone[1])
    return "" if choices else gold


def _labels(choices: list[str]) -> str:
    return string.ascii_uppercase[: len(choices)] if choices else _LETTERS


def read(answer: str, labels: str, choices: list[str]) -> frozenset[str] | str:
    """The letters that an answer names, else the reason why there is none."""
    plain = _plain(answer)
    alone = _ALONE.fullmatch(plain)
    if alone:
        label = alone[1].upper()
        if label in labels or (not choices and label.isalpha()):
            return frozenset(label)
    texts = [option_text(choice) for choice in choices]
    same = [
        letter for letter, text in zip(labels, texts, strict=False) if text == option_text(answer)
    ]
    if len(same) == 1:
        return frozenset(same)
    head = _BRACKETED.match(plain) or _HEAD.match(plain)
    label = head[head.lastindex] if head else ""
    if label and label in labels and _is_own(plain[head.end() :], label, labels, texts):
        return frozenset(label)  # before "D. E" is two letters: option D may be called E
    return _listed(plain, labels) or _named(plain, labels, texts)


def _listed(plain: str, labels: str) -> frozenset[str] | None:
    """Nothing but several letters: "B, D", "(A) and (C)", "BD", "the answers are B and D"."""
    plain = _THEY_ARE.sub("", plain, count=1) if _THEY_ARE.match(plain) else plain
    parts = [part.strip("()[].") for part in _SEVERAL.split(plain) if part.strip("()[].")]
    if len(parts) == 1 and 1 < len(parts[0]) <= 5:
        parts = list(parts[0]) if parts[0].isupper() else parts
    letters = set(parts)
    known = len(parts) > 1 and all(len(part) == 1 and part in labels for part in parts)
    return frozenset(letters) if known and len(letters) == len(parts) else None


def _named(plain: str, labels: str, texts: list[str]) -> frozenset[str] | str:
    """The one letter that running text names."""
    found = [
        (match.start(), match.end(), match[match.lastindex], pattern is not _HEAD)
        for pattern in (_BRACKETED, _HEAD, _SAID)
        for match in pattern.finditer(plain)
        if match[match.lastindex] in labels
    ]
    standing = set(_STANDALONE.findall(_ARTICLE.sub("", plain))) & set(labels)
    if not found:
        return _unmarked(plain, labels, texts) or (SEVERAL if len(standing) > 1 else UNREAD)
    # A letter with a full stop or a bracket behind it is a head only where it stands first.
    start, end, label, marked = min(found)
    if _is_own(plain[end:], label, labels, texts):
        return frozenset(label)
    if len({letter for _, _, letter, _ in found}) > 1:
        return SEVERAL
    if option_text(plain[end:]) in texts or standing - {label}:
        return SEVERAL  # another letter, or the text of another option
    if _NEGATED.search(plain[:end]) or not (marked or start == 0):
        return UNREAD
    return frozenset(label)


def _unmarked(plain: str, labels: str, texts: list[str]) -> frozenset[str] | None:
    """ "B right", where option B is "right"."""
    own = plain[:1] in labels and _is_own(plain[1:], plain[:1], labels, texts)
    return frozenset(plain[0]) if plain and own else None


def _is_own(rest: str, label: str, labels: str, texts: list[str]) -> bool:
    """Whether the text behind a letter is the text of its option."""
    index = labels.index(label)
    rest = option_text(rest)
    return index < len(texts) and bool(rest) and texts[index] in (rest, rest.strip("()[]-"))


def _plain(text: str) -> str:
    for _ in range(2):
        text = _TEXT.sub(r"\1", text)
    return _SPACE.sub(" ", _DRESS.sub("", text)).strip()


def option_text(text: str) -> str:
    """The normal form in which the text of an option is compared: LaTeX dress, case, spaces and
    punctuation around it aside."""
    plain = _plain(text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return "".join(plain.casefold().split()).strip(".,;:!?、。")
