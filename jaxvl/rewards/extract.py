# SPDX-License-Identifier: Apache-2.0
"""Which part of a completion is its answer, and the plain form it is judged in.

Everything here takes time linear in the length of the completion.
"""

from __future__ import annotations

import re
import unicodedata

LIMIT = 2000  # characters of an answer; a longer one is not an answer

_SPECIAL = re.compile(r"(?:<\|[^<>|\s]{1,40}\|>|</s>|<eos>|<pad>)\Z")
_TAG = re.compile(r"<(/?)answer>")
_STATEMENT = re.compile(r"\b(?:answer|choice|option)(?:\s+is\b|\s*:)\s*:?", re.IGNORECASE)
_PREFIX = re.compile(
    r"(?:so|thus|therefore|hence)?,?\s*(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?"
    r"answer\s*(?:is\b|:|=)\s*:?\s*|(?:所以|因此|故)?,?\s*(?:答案\s*[是为]?\s*:?|选择?(?=[\s(]*[A-Z]))\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[\w)\]}$%°\"'])[.!?]\s+(?=[A-Z])")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("`", "`"),
)
_COMMANDS = re.compile(r"\\(?:boxed|fbox|text|textbf|textrm|mathrm|mathbf)\s*(?=\{)")
_FENCE = re.compile(r"```(?:[a-zA-Z]+[ \t]*\n|json\b)?(.*?)```", re.DOTALL)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_PLAIN = str.maketrans(
    {
        "\u2212": "-",  # minus
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": "-",
        "\u2044": "/",  # fraction slash
        "\u2215": "/",
        "\u3002": ".",
        "\u3010": "[",
        "\u3011": "]",
        **dict.fromkeys("\u300c\u300d\u300e\u300f", '"'),
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
    }
)


def reply(text: str) -> str:
    """What follows the last `</think>` (the whole text where there is none), without the special
    tokens that a decoder may leave at its end."""
    text = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    text = text.rstrip()
    while match := _SPECIAL.search(text, max(0, len(text) - 50)):
        text = text[: match.start()].rstrip()
    return text


def blocks(text: str) -> list[str] | None:
    """The stripped contents of the `<answer>` blocks of a reply, each different one once.

    None where a tag is nested, unclosed or stray, or where there is no block.
    """
    contents: dict[str, None] = {}
    start = None
    for tag in _TAG.finditer(text):
        if (tag[1] == "") != (start is None):
            return None
        if start is None:
            start = tag.end()
        else:
            contents[text[start : tag.start()].strip()] = None
            start = None
    return list(contents) if contents and start is None else None


def single(text: str) -> str:
    """The content of the one valid answer block of a completion, "" where there is none."""
    found = blocks(reply(text))
    return found[0] if found and len(found) == 1 else ""


def candidates(text: str) -> list[str]:
    """Where the answer of a reply without valid tags may stand, for lenient mode, best first.

    The content of the last `\\boxed{}` alone where there is one; else what follows the last "the
    answer is" up to the end of its sentence, then the last sentence.
    """
    text = _TAG.sub("\n", text)
    boxed = last_boxed(text)
    if boxed is not None:
        return [boxed]
    tail = text[-LIMIT:].rstrip()
    last_line = tail[tail.rfind("\n") + 1 :]
    found = [_SENTENCE.split(last_line)[-1]]
    statements = list(_STATEMENT.finditer(tail))
    if statements:
        said = tail[statements[-1].end() :].strip().split("\n")[0]
        found.insert(0, _SENTENCE.split(said)[0])
    return [answer for answer in found if answer.strip()]


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{}` (or `\\fbox{}`) that closes, else None."""
    end = len(text)
    for _ in range(8):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            return None
        brace = text.find("{", start, start + 10)
        close = -1 if brace < 0 else closing(text[: brace + 4 * LIMIT], brace)
        if close >= 0:
            return text[brace + 1 : close].strip()
        end = start
    return None


def closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed by one of its kind, -1 where it is not."""
    opened, closed, depth = text[start], {"(": ")", "[": "]", "{": "}"}[text[start]], 0
    for index in range(start, len(text)):
        if text[index] == opened:
            depth += 1
        elif text[index] == closed:
            depth -= 1
            if not depth:
                return index
    return -1


def unwrap(text: str, prefix: bool = True) -> str:
    """An answer without its dress: `$..$`, `\\boxed{}`, bold, fences, and "the answer is" where
    that `prefix` is to go."""
    for _ in range(5):
        before, text = text, text.strip()
        fence = _FENCE.fullmatch(text)
        text = fence[1].strip() if fence else text
        text = _PREFIX.sub("", text, count=1) if prefix and _PREFIX.match(text) else text
        command = _COMMANDS.match(text)
        if command and closing(text, command.end()) == len(text) - 1:
            text = text[command.end() + 1 : -1]
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            wrapped = text.startswith(left) and text.endswith(right) and inner.strip()
            if wrapped and len(text) > len(left + right) and left not in inner:
                text = inner
        if text == before:
            break
    return text


def normalize(text: str) -> str:
    """NFKC, but for superscripts and subscripts (`²` is not 2); one minus and one fraction slash;
    no invisible characters; `3½` as "3 1/2"."""
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    out = []
    for char in text:
        kind = unicodedata.decomposition(char).partition(">")[0]
        if kind in ("<super", "<sub"):
            out.append(char)
        elif kind == "<fraction":
            out.append(" " + unicodedata.normalize("NFKC", char))
        else:
            out.append(unicodedata.normalize("NFKC", char))
    return unicodedata.normalize("NFC", "".join(out)).translate(_PLAIN)
