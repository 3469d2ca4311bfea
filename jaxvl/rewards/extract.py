# SPDX-License-Identifier: Apache-2.0
"""Which part of a completion is its answer, and the plain form it is judged in.

Everything here takes time linear in the length of the completion, a millisecond or two a megabyte.
"""

from __future__ import annotations

import json
import re
import unicodedata

from jaxvl.rewards import said

LIMIT = 2000  # characters of an answer; a longer one is not an answer

WINDOW = 64_000  # characters at the end of a reply in which an answer without tags is looked for

# Tokens that a decoder may leave at the ends; not those that stand around an answer.
_SPECIAL = re.compile(
    r"<\|(?!begin_of_box|end_of_box|box_|object_ref_)[^<>|\s]{1,40}\|>|</?s>|<(?:eos|bos|pad)>"
)
_TAG = re.compile(r"<(/?)answer>")
_PREFIX = re.compile(
    rf"{said.OPENING}{said.DECLARES}|(?:所以|因此|故)?,?\s*(?:(?:正确|最终)?答案\s*[是为]?\s*:?|选择?(?=[\s(]*[A-Z]))\s*",
    re.IGNORECASE,
)
# Sentences in which a choice may be declared.
_CHOOSES = re.compile(
    r"\b(?:answer|option|choice|correct|right|best|choose|chose|select|pick|go with)|选|答案|正确",
    re.IGNORECASE,
)
_BOX_TOKENS = re.compile(r"<\|begin_of_box\|>(.{0,2000}?)<\|end_of_box\|>", re.DOTALL)
_LINES = 300  # that are looked at for what is declared
_OPTIONS = re.compile(r"[(\[][A-Z][)\]]|\b[A-Z][.:)]")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_ECHO = re.compile(r"[-*\s]*[(\[]?[A-Z][\]).:]")
_JSON = re.compile(r"\{.{0,1900}\}", re.DOTALL)
_KEYS = ("answer", "final_answer", "final answer", "short answer", "option", "choice", "result")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("`", "`"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
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
    """What follows the last `</think>` (the whole text where there is none) without the special
    tokens that a decoder may leave at its ends."""
    start = text.rfind("</think>")
    return _without_tokens(text[start + len("</think>") :] if start >= 0 else text)


def _without_tokens(text: str) -> str:
    """A text without spaces and special tokens at its ends."""
    text = text.strip()
    if "<" not in (text[:1], text[-50:].partition("<")[1]):
        return text
    spans = [found.span() for found in _SPECIAL.finditer(text)]
    stop, start = len(text), 0
    for left, right in reversed(spans):
        if text[right:stop].strip():
            break
        stop = left
    for left, right in spans:
        if text[start:left].strip() or left >= stop:
            break
        start = right
    return text[start:stop].strip()


def blocks(text: str) -> list[str] | None:
    """The stripped contents of the `<answer>` blocks of a reply, each different one once.

    None where a tag is nested, unclosed or stray, where there is no block, and where thinking is
    opened and never closed.
    """
    if "<think>" in text:
        return None
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


def places(text: str, kind: str) -> list[list[str]]:
    r"""Where a `reply` without a valid block may have its answer, for lenient mode, best first.

    1. what is marked as final: the last `\boxed{}`, box tokens, "the final answer is ..";
    2. what is declared: "the answer is ..", "B is correct"; for a choice a first sentence such as
       "(B) no" too;
    3. the one thing with a digit that is set in bold;
    4. the last sentence that neither takes leave of the reader nor explains the one before it;
    5. the first sentence, unless the last one concludes or wavers; for a box the whole.

    The answers of one place have to agree. For a choice, 1 and 2 are one place, and the only one
    where something is boxed; else a first sentence that names an option goes before the last one,
    unless that concludes ("So it is on the left").
    """
    whole = _without_tokens(_TAG.sub("\n", text[-WINDOW:].replace("<think>", "\n")))
    final, declared = _declared(whole, kind)
    boxed = last_boxed(text)
    tokens = _BOX_TOKENS.findall(whole)
    final += ([] if boxed is None else [boxed]) + tokens[-1:]
    if boxed is not None and kind != "mcq":
        final = [boxed]
    tail = [part for part in said.sentences(whole[-2 * LIMIT :])[-8:] if len(part) <= LIMIT]
    while len(tail) > 1 and (said.closing(tail[-1]) or said.explains(tail[-1])):
        tail.pop()
    if kind == "mcq":
        lead = _lead(text)
        if boxed is not None or tokens:
            return [final + declared + lead, []]
        ends = [tail[-1:], lead] if tail and said.concludes(tail[-1]) else [lead, tail[-1:]]
        return [final + declared + lead, *ends]
    bold = {span.strip(" .:") for span in _BOLD.findall(whole) if any(map(str.isdigit, span))}
    guess = tail and (said.concludes(tail[-1]) or said.HEDGE.search(tail[-1]))
    first = said.sentences(whole.partition("\n")[0][:LIMIT])[:1] if not guess else []
    emphasised = list(bold) if len(bold) == 1 else []
    return [final, declared, emphasised, tail[-1:], first, [whole] if kind == "bbox" else []]


def _declared(text: str, kind: str) -> tuple[list[str], list[str]]:
    """What is declared as the final answer, and what as the answer."""
    final: list[str] = []
    declared: list[str] = []
    lines = [line for line in text.split("\n") if line.strip()][-_LINES:]
    for at, line in enumerate(lines):
        found = _CHOOSES.search(line) if kind == "mcq" else said.DECLARED.search(line)
        if not found or len(line) > 4 * LIMIT:
            continue
        for sentence in said.sentences(line):
            if kind == "mcq":
                after = lines[at + 1 : at + 2] if sentence.rstrip("*_ ").endswith(":") else []
                if _CHOOSES.search(sentence) and not _describes(sentence):
                    declared.append(" ".join([sentence, *after]))
                continue
            for one in said.DECLARED.finditer(sentence):
                answer = sentence[one.end() :].strip(" *_") or "".join(lines[at + 1 : at + 2])
                clause = re.split("[,;]", sentence[: one.start()])[-1]
                if answer and not said.NEGATIVE.search(clause):
                    (final if one["final"] or one["final2"] else declared).append(answer)
    return final[-20:], declared[-20:]


def _describes(sentence: str) -> bool:
    """Whether a sentence is about an option that it begins with: "(A) This option shows .."."""
    head = _ECHO.match(sentence)
    return head is not None and not said.AFFIRMS.match(sentence, head.end())


def _lead(text: str) -> list[str]:
    """The sentence with which a reply begins, unless it begins with a list of the options."""
    start = _without_tokens(_TAG.sub("\n", text[: 2 * LIMIT]))
    lines = [line for line in start.split("\n") if line.strip()]
    listed = len(lines) > 1 and all(_ECHO.match(line) for line in lines[:2])
    if not lines or listed or len(_OPTIONS.findall(lines[0][:LIMIT])) > 2:
        return []
    first = said.sentences(lines[0])
    taken_back = len(first) > 1 and said.RETRACTS.match(first[1])
    return [" ".join(first[:2])] if taken_back else first[:1]


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` (or `\fbox{}`) that closes, else None."""
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
    r"""An answer without its dress: `$..$`, `\boxed{}`, bold, fences, and "the answer is" where
    that `prefix` is to go."""
    for _ in range(5):
        before, text = text, text.strip()
        if text[-1:] in (".", "\u3002") and text[-2:-1] in ("}", "$", ")", "*", "`", ">"):
            text = text[:-1]
        fence = _FENCE.fullmatch(text)
        text = fence[1].strip() if fence else text
        text = _from_json(text) if text[:1] == "{" and _JSON.fullmatch(text) else text
        text = _PREFIX.sub("", text, count=1) if prefix and _PREFIX.match(text) else text
        command = _COMMANDS.match(text)
        if command and closing(text, command.end()) == len(text) - 1:
            text = text[command.end() + 1 : -1]
        for left, right in _WRAPPERS:
            if not (text.startswith(left) and text.endswith(right)):
                continue
            inner = text[len(left) : -len(right)]
            if inner.strip() and len(text) > len(left + right) and left not in inner:
                text = inner
        if text == before:
            break
    return text


def _from_json(text: str) -> str:
    """The answer in an object such as {"answer": "B"}; any other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found = [value[key] for key in value if key.lower() in _KEYS] if isinstance(value, dict) else []
    plain = len(found) == 1 and isinstance(found[0], (str, int, float))
    return str(found[0]) if plain and not isinstance(found[0], bool) else text


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
