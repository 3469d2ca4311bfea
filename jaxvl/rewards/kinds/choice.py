# SPDX-License-Identifier: Apache-2.0
"""Choices: the letter of an option, or its text. An unclear answer is no answer.

Options that an answer names are marked in it, each by one character (`mentions`), and what is left
is read as a sentence: "the answer is ▪", "▪ is correct", "the shape that cannot be folded is ▪",
"the car is on the ▪". A letter counts only in a sentence that says it; the text of an option also
where it is the only one named and nothing takes it back.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Sequence

from jaxvl.rewards import said
from jaxvl.rewards.kinds import mentions, number
from jaxvl.rewards.kinds.phrase import fold
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

# Without known choices; I is the pronoun.
_LETTERS = "ABCDEFGHJ"
_ALONE = re.compile(r"[\[(]?\s*([A-Za-z0-9])\s*[\])]?\s*[.:,;)!?、。]*")
_SEVERAL = re.compile(r"\s*(?:[,;&、和与及]|\band\b|\s)\s*")
_THEY_ARE = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+)?(?:answers?|options?|choices?)\s*(?:are\b|is\b|:)?\s*:?",
    re.IGNORECASE,
)
_HEADS = re.compile(r"(?<![A-Za-z])[A-Z][.):]\s")
_THAT = re.compile(r"\W*(?:that|this|it|which|no|not|just|wrong|false|incorrect)\b", re.IGNORECASE)
# Behind a letter they begin a sentence about it, or take up another answer.
_VERBS = re.compile(
    r"(?:is|are|was|were|isn't|wasn't|can|can't|cannot|could|couldn't|do|does|doesn't|did|didn't|"
    r"has|have|had|would|wouldn't|will|won't|may|might|must|should|shouldn't|seems?|appears?|"
    r"looks|to|than|from|being|if|not|never|but)\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(r"(?:or|and|nor|vs|versus|instead|either)\b|[/&+<>=|]", re.IGNORECASE)
_COPULA = re.compile(rf"(?<![\w'])(?:{said.COPULA})", re.IGNORECASE)
_IS_NOT = re.compile(r"(?:it|he|she|they|there|I)\s+\w+(?:n't| not)", re.IGNORECASE)
_UNEQUAL = re.compile(
    r"(?:(?<![{\d\\])~|[¬≠]|!=|<>|\\(?:neq?|not|lnot)(?![a-zA-Z]))\s*[(\[]?[A-Z]\b"
)
_BUT = re.compile(r"\A(?:but|however|still|yet)\b,?\s+", re.IGNORECASE)
_WORST = re.compile(rf"\b(?:least|worst|less)\s+(?:\w+\s+)?{said.NOUN}\b", re.IGNORECASE)
_DECLARED = re.compile(rf"{said.DECLARES}([\ue000-\ue1ff])", re.IGNORECASE)


def judge(answer: str, gold: str, choices: list[str], firm: bool = False) -> tuple[float, str, str]:
    """Reward, normal form (the letters, else the folded text) and reason. `firm`: see `read`."""
    right = _gold(gold, tuple(choices))
    if not right:
        return 0.0, "", BAD_GOLD
    if not isinstance(right, frozenset):  # a gold that is text, without choices to find it in
        text, known = fold(answer), fold(right)
        return float(text == known), text, MATCH if text == known else MISMATCH
    labels = string.digits if right <= set(string.digits) else _labels(choices)
    found = _read(answer, labels, tuple(choices), firm)
    if isinstance(found, str):
        return 0.0, "", found
    found, right = _first(found, labels, choices), _first(right, labels, choices)
    equal = found == right
    return float(equal), ", ".join(sorted(found)), MATCH if equal else MISMATCH


@functools.lru_cache(10_000)  # a gold is met by every completion of its group
def _gold(gold: str, choices: tuple[str, ...]) -> frozenset[str] | str:
    """The letters that are right; the gold itself where it is text and no choices are known; ""
    where it is none of the choices."""
    found = read(gold, _labels(choices), list(choices), firm=True)
    if isinstance(found, frozenset):
        return found
    alone = _ALONE.fullmatch(gold)
    if alone and alone[1].isdigit() and not choices:
        return frozenset(alone[1])
    return "" if choices else gold


def _first(letters: frozenset[str], labels: str, choices: list[str]) -> frozenset[str]:
    """The letters, with the first one for options that read the same."""
    if len(set(choices)) == len(choices):
        return letters
    return frozenset(labels[choices.index(choices[labels.index(letter)])] for letter in letters)


def _labels(choices: Sequence[str]) -> str:
    return string.ascii_uppercase[: len(choices)] if choices else _LETTERS


def read(answer: str, labels: str, choices: list[str], firm: bool = False) -> frozenset[str] | str:
    """The letters that an answer names, else the reason why there is none. Where it is to be `firm`
    an option counts that is declared, none that a sentence only names."""
    if _UNEQUAL.search(answer):
        return UNREAD
    plain = mentions.plain_text(answer)
    alone = _ALONE.fullmatch(plain)
    if alone:
        label = alone[1].upper()
        if label in labels or (not choices and label.isalpha()):
            return frozenset(label)
    texts = [mentions.option_text(choice) for choice in choices]
    whole = mentions.option_text(answer)
    same = [letter for letter, text in zip(labels, texts, strict=False) if text == whole]
    if same and len({choices[labels.index(letter)] for letter in same}) == 1:
        return frozenset(same[:1])
    head = mentions.head(plain, labels)
    if head and _is_own(plain[head[1] :].lstrip(), labels.index(head[0]), texts):
        return frozenset(head[0])  # before "D. E" is two letters: option D may be called E
    several = _listed(plain, labels)
    if several:
        return several
    found, sure = _said(answer, plain, labels, choices)
    return UNREAD if firm and isinstance(found, frozenset) and not sure else found


@functools.lru_cache(10_000)  # a reward and the audit of a step read the same answers
def _read(answer: str, labels: str, choices: tuple[str, ...], firm: bool) -> frozenset[str] | str:
    return read(answer, labels, list(choices), firm)


def _is_own(rest: str, index: int, texts: list[str]) -> bool:
    """Whether the text behind a letter is the text of its option. "D, E" is two letters, even where
    option D is called E."""
    listed = rest[:1] == "," and len(texts) > index and len(texts[index]) == 1
    rest = "" if listed else mentions.option_text(rest)
    return index < len(texts) and bool(rest) and texts[index] in (rest, rest.strip("()[]-"))


def _listed(plain: str, labels: str) -> frozenset[str] | None:
    """Nothing but several letters: "B, D", "(A) and (C)", "BD", "the answers are B and D"."""
    plain = _THEY_ARE.sub("", plain, count=1) if _THEY_ARE.match(plain) else plain
    parts = [part.strip("()[].") for part in _SEVERAL.split(plain) if part.strip("()[].")]
    if len(parts) == 1 and 1 < len(parts[0]) <= 5:
        parts = list(parts[0]) if parts[0].isupper() else parts
    letters = set(parts)
    known = len(parts) > 1 and all(len(part) == 1 and part in labels for part in parts)
    return frozenset(letters) if known and len(letters) == len(parts) else None


def _said(
    answer: str, plain: str, labels: str, choices: list[str]
) -> tuple[frozenset[str] | str, bool]:
    """What the sentences of an answer say together, and whether one of them says nothing else."""
    found, sure = _sentence(plain, labels, choices)
    listed = len(_HEADS.findall(plain)) > 2  # "A. Left B. Right C. Above"
    parts = () if listed or isinstance(found, frozenset) else said.sentences(answer)
    if any(_OTHERS.match(part) for part in parts[1:]):
        return SEVERAL, False  # "left", and on the next line "or so"
    if any(_THAT.match(part) and said.RETRACTS.search(part) for part in parts[1:]):
        return UNREAD, False  # "B. That is wrong."
    read = [
        _sentence(mentions.plain_text(part), labels, choices)
        for part in parts[:20]
        if len(parts) > 1
    ]
    for certain in (True, False):
        named = {of for of, sure_of in read if isinstance(of, frozenset) and sure_of >= certain}
        if named:
            return (named.pop(), certain) if len(named) == 1 else (SEVERAL, False)
    return found, sure


def _sentence(plain: str, labels: str, choices: list[str]) -> tuple[frozenset[str] | str, bool]:
    """The option that one sentence says, or why it says none; and whether that is all it does."""
    core, reason = said.core(mentions.marked(_BUT.sub("", plain), labels, choices))
    hence = next(reversed(list(said.HENCE.finditer(core))), None)
    if hence and not mentions.MARK.search(core, 0, hence.start()):
        core = core[hence.end() :]
    marks = mentions.MARK.findall(core)
    named = {mentions.index_of(mark) for mark in marks}
    if not named:
        return _counted(plain, labels, choices), False
    if len(named) > 1:
        return SEVERAL, False
    (index,) = named
    if any(mentions.index_of(mark) != index for mark in _DECLARED.findall(reason)):
        return SEVERAL, False
    if _WORST.search(core):
        return UNREAD, False
    letter = ord(marks[0]) < mentions.TEXTS
    if not letter and not _is_number(plain, choices[index]):
        return UNREAD, False
    label = frozenset(labels[index])
    start = core.index(marks[0])
    if said.LEAD.fullmatch(core[:start].rstrip("(")) and not said.NEGATIVE.search(core[:start]):
        problem = _tail(core[start + 1 :], ord(marks[0]), choices[index : index + 1])
        if problem is None or (letter and problem):
            return (problem or label), not problem
    place = core.rindex(marks[-1])
    copula = next(reversed(list(_COPULA.finditer(core, 0, place))), None)
    stop = copula.start() if copula else 0
    if said.HEDGE.search(core[stop:]):
        return SEVERAL, False
    if said.negated(core, core[:stop]):
        return UNREAD, False
    if not letter:
        return label, False
    between = core[copula.end() : place].strip(" (:") if copula else "-"
    predicate = between in ("", "the") and _tail(core[place + 1 :], ord(marks[-1]), []) is None
    last = ord(marks[-1]) >= mentions.KEYED and not core[place + 1 :].strip(mentions.PUNCTUATION)
    return (label if predicate or last else UNREAD), predicate


def _tail(tail: str, mark: int, texts: Sequence[str]) -> str | None:
    """Why what stands behind an option that begins a sentence leaves it unsaid, None where it does
    not."""
    affirmed = said.AFFIRMS.match(tail)
    tail = (tail[affirmed.end() :] if affirmed else tail).rstrip()
    rest = tail.strip(mentions.PUNCTUATION)
    if not rest:
        return None
    apart = tail.lstrip()[:1] in mentions.PUNCTUATION
    comma = tail.lstrip()[:1] in (",", "?")
    if _OTHERS.match(rest):
        return SEVERAL
    if not apart and (_VERBS.match(rest) or not mentions.KEYED <= mark < mentions.TEXTS):
        return UNREAD
    marked_off = tail.startswith("..") or tail.lstrip()[:1] in tuple("-;(")
    if said.NEGATIVE.fullmatch(rest) and (texts or marked_off):
        return UNREAD  # "B - no", where it is not the text of option B
    if re.match(r"-[a-z]", tail):
        return UNREAD  # B-ish
    if _IS_NOT.fullmatch(rest) and texts and said.NEGATIVE.fullmatch(texts[0]):
        return None  # "No, it isn't"
    if said.RETRACTS.search(rest) and rest != "False":
        return UNREAD
    return UNREAD if comma and said.NEGATIVE.match(rest) else None


def _counted(plain: str, labels: str, choices: list[str]) -> frozenset[str] | str:
    """The one option that is the number of a sentence: "ten" where an option is 10."""
    read = [number.read_gold(choice) for choice in choices]
    if not any(isinstance(one, number.Number) for one in read):
        return UNREAD
    found = number.read(plain)
    same = [
        label
        for label, one in zip(labels, read, strict=False)
        if not isinstance(one, str) and not isinstance(found, str) and number.matches(found, one)
    ]
    return frozenset(same) if len(same) == 1 else UNREAD


def _is_number(plain: str, choice: str) -> bool:
    """Whether the text of an option that is a number is what the sentence says: 5, not the square
    of 5. True for other texts."""
    text = number.read_gold(choice) if any(char.isdigit() for char in choice) else ""
    if isinstance(text, str):
        return True
    found = number.read(plain.rstrip("! "), text)
    return not isinstance(found, str) and number.matches(found, text)
