# SPDX-License-Identifier: Apache-2.0
"""Where an answer names options of a question: each mention is marked by one character.

A letter in brackets, behind "option" or standing alone; the text of an option as whole words. No
article, no pronoun, no name of a point.
"""

from __future__ import annotations

import functools
import re

from jaxvl.rewards import said

_DRESS = re.compile(
    r"[*`\"$]|(?<!\w)'|'(?!\w)|\\(?:left|right)(?![a-zA-Z])|^(?:[•>#]+|-(?!\s*[\d.]))\s+"
)
_TEXT = re.compile(r"\\(?:boxed|fbox|text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
PUNCTUATION = " .,;:!?)(][-、。，"
# (B), [b]; option B, choice (b); B anywhere.
_MENTION = re.compile(
    r"\b(?i:points?|lines?|angles?|vertex|vitamin|figure|image|picture|panel|step|boxe?s?|car|object|"
    r"person|player|team|group|plan|type|class|grade|shape|circle|triangle|region|bar|curve|graph|"
    r"node|city|side)\s+[A-Z](?!\w)"  # names, not options
    r"|(?:(?:\bthe\s+)?\b(?i:(?:answer\s+|correct\s+)?(?:option|choice|letter)|answer)\s*[#:]?\s*"
    r"|选项?\s*|答案\s*)"
    r"(?:[(\[]\s*(?P<boxed>[A-Za-z0-9])\s*[)\]]|(?P<key>(?!a\s)[A-Za-z0-9])(?![A-Za-z0-9_']|\.\d))"
    r"|(?<![A-Za-z0-9_])[(\[]\s*(?P<bracketed>[A-Za-z0-9])\s*[)\]]"
    r"|(?<![A-Za-z0-9_'°\\/∠△])(?<!\d )(?P<standing>[A-Z])(?![A-Za-z0-9_'])"
)
_HEAD = re.compile(r"(?P<head>[a-z0-9])\s*[.):、](?![0-9])")  # b) dog, 3. the third
# Perhaps the letter of an option, before its text.
_LONE = re.compile(r"(?:^|[\s(\[])[a-z][)\].:,\s-]*\Z")
_COMPARED = re.compile(r"\b(?:than|of|to|from)\s\Z")
# "A" is a letter before these; before any other word it is the article.
_NO_NOUN = re.compile(
    r"\s+(?:is|was|because|since|as|due|so|would|must|should|can|cannot|could|does|seems|fits|"
    r"matches|looks|appears|isn't|or|and|nor|but|if|in my|left|right|above|below|behind|under|over|"
    r"inside|outside|up|down|yes|no|none|true|false|north|south|east|west)\b"
    r"|\s*[^\sa-z]|\s*$"
)
# An option that is named, as one character: its letter, its letter in brackets or as "option B",
# its text.
LETTERS, KEYED, TEXTS = 0xE000, 0xE080, 0xE100
MARK = re.compile("[\ue000-\ue1ff]")
_PAIR = re.compile("([\ue000-\ue1ff])[\\s:.,)(\\]\\[=-]*([\ue000-\ue1ff])[)\\]]?")
_PRAISE = re.compile(r"right|correct|true|best|accurate")
_PRAISED = re.compile(rf"\s+(?:{said.NOUN}|one)\b")


def head(plain: str, labels: str) -> tuple[str, int] | None:
    """The letter that begins an answer and where it ends."""
    found = _MENTION.match(plain) or _HEAD.match(plain)
    if not found or not found.lastgroup:
        return None
    label = found[found.lastgroup].upper()
    return (label, found.end()) if label and label in labels else None


def marked(plain: str, labels: str, choices: list[str]) -> str:
    """The answer with every option that it names as one character; a letter beside its own text is
    one mention, by its text."""
    lower = "".join(char.lower() if len(char.lower()) == 1 else char for char in plain)
    marks: dict[int, tuple[int, int]] = {}  # start -> stop, mark
    texts = [plain_text(choice).lower().strip(" .,;:!?") for choice in choices[: len(labels)]]
    texts = [text if text not in texts[:at] else "" for at, text in enumerate(texts)]
    for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        for start, stop in _places(texts[index], lower):
            _mark(marks, start, stop, TEXTS + index)
    for found in (_HEAD.match(plain), *_MENTION.finditer(plain)):
        if not found or not found.lastgroup:
            continue
        index = labels.find(found[found.lastgroup].upper())
        if index >= 0 and _is_letter(found, lower, texts, index):
            kind = LETTERS if found.lastgroup in ("standing", "head") else KEYED
            stop = found.end(1) if found.lastgroup == "head" else found.end()
            _mark(marks, found.start(), stop, kind + index)
    out, at = [], 0
    for start in sorted(marks):
        stop, mark = marks[start]
        out += [plain[at:start], chr(mark)]
        at = stop
    return _PAIR.sub(_one, "".join([*out, plain[at:]]))


def _mark(marks: dict[int, tuple[int, int]], start: int, stop: int, mark: int) -> None:
    """Mark a span, unless part of it is marked."""
    if all(stop <= other or start >= end for other, (end, _) in marks.items()):
        marks[start] = stop, mark


def _is_letter(found: re.Match, lower: str, texts: list[str], index: int) -> bool:
    """Whether what looks like the letter of an option is one: no article, no pronoun."""
    kind, rest = found.lastgroup or "", found.string[found.end() :]
    letter = found[kind]
    if kind == "standing" and _COMPARED.search(lower, max(0, found.start() - 6), found.start()):
        return False  # "A is closer than B"
    if kind == "head":
        own = texts[index] if index < len(texts) else ""
        return letter.isdigit() or (bool(own) and lower[found.end() :].lstrip().startswith(own))
    if kind == "standing" and letter == "A":
        return not re.match(r"\s+[a-z]", rest) or bool(_NO_NOUN.match(rest))
    return letter != "I" or kind in ("bracketed", "boxed") or not rest.strip(PUNCTUATION)


def _one(pair: re.Match) -> str:
    """Two marks of one option as the mark of its text."""
    a, b = pair[1], pair[2]
    own = max(ord(a), ord(b)) >= TEXTS > min(ord(a), ord(b)) and index_of(a) == index_of(b)
    return max(a, b) if own else pair[0]


def index_of(mark: str) -> int:
    """Which option a mark is of, its letter and its text alike."""
    return ord(mark) & 0x7F


def _places(text: str, lower: str) -> list[tuple[int, int]]:
    """Where the text of an option stands as whole words. "yes", "no" and other words that take back
    what a sentence says count as its first or last word alone; single letters never."""
    if not text or (len(text) == 1 and text.isalpha() and text.isascii()):
        return []
    weak = text == "yes" or bool(said.NEGATIVE.fullmatch(text))
    found: list[tuple[int, int]] = []
    start = lower.find(text)
    while start >= 0 and len(found) < 20:
        stop = start + len(text)
        if not _glued(lower, start, stop) and not (weak and not _apart(lower, start, stop)):
            found.append((start, stop))
        start = lower.find(text, stop)
    return found


def _glued(lower: str, start: int, stop: int) -> bool:
    """Whether a span is only part of a word or of a number."""
    before, after = lower[max(0, start - 1) : start], lower[stop : stop + 2]
    if _PRAISE.fullmatch(lower, start, stop) and _PRAISED.match(lower, stop):
        return True  # "the right answer" names no option
    word = (before.isalnum() or before in ("_", "^", "\\")) and lower[start].isascii()
    if word and lower[start].isalnum():
        return True
    if lower[start].isdigit() and before and before in ".,/-:":
        return True
    if lower[stop - 1].isalnum() and (
        (after[:1].isalnum() and after[:1].isascii()) or after[:1] == "_"
    ):
        return True
    return lower[stop - 1].isdigit() and after[:1] in tuple(".,/:^") and after[1:2].isdigit()


def _apart(lower: str, start: int, stop: int) -> bool:
    """Whether a word begins or ends its sentence and has a stop behind it."""
    after = lower[stop:].lstrip()
    ended = after[:1] in ("", *".,;:!?)(-") and lower[stop : stop + 1] != "-"
    before = lower[:start].rstrip("( ")
    if not ended and not said.REASON.match(after):
        return False
    leads = not before or _LONE.search(before) or said.LEAD.fullmatch(before + " ")
    return bool(leads or re.search(r"\b(?:is|are|was)$", before))


@functools.lru_cache(10_000)  # options are met by every answer to their question
def plain_text(text: str) -> str:
    """A text without its LaTeX dress; its spaces are single."""
    for _ in range(2):
        text = _TEXT.sub(r"\1", text)
    return _SPACE.sub(" ", _DRESS.sub("", text)).strip()


@functools.lru_cache(10_000)
def option_text(text: str) -> str:
    """The normal form in which the text of an option is compared: LaTeX dress, case, spaces and
    punctuation around it aside."""
    plain = plain_text(text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return "".join(plain.casefold().split()).strip(".,;:!?、。")
