# SPDX-License-Identifier: Apache-2.0
"""From what people and models write to LaTeX that a parser reads, and what it refuses to read."""

from __future__ import annotations

import re
import unicodedata

from jaxvl.rewards.extract import closing
from jaxvl.rewards.kinds.digits import UNITS

LENGTH, NESTING, DIGITS, EXPONENT, FACTORIAL = 400, 30, 15, 2000, 50
BRACKETS = 10  # of ( and [, which cost the parser most
GROUP_EXPONENT = 50  # of a bracket, which simplification may multiply out
ENTRIES = 36  # of a matrix
BARS = 12  # |, each of which may open or close
# ^ in all, relations in all, and signs in a row: each takes the parser milliseconds
POWERS, RELATIONS, SIGNS = 40, 40, 8

_FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log ln lg exp".split()
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "pi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi "
    "Psi Omega"
).split()
# Sums, products, integrals, limits and binomials are not among them: they are allowed where the
# gold has them.
_KNOWN = {
    *_FUNCTIONS,
    *_GREEK,
    *"frac sqrt cdot times div infty pm le ge lt gt ne neq cup in begin end degree".split(),
    *"lfloor rfloor lceil rceil emptyset max min".split(),
}
_MATRIX = re.compile(r"\\(begin|end)\{([pbvBV]?matrix|array|cases)\}")
_ROWS = re.compile(r"\s*\[(?:\s*\[[^\[\]]*\](?:\s*,)?)+\s*\]\s*")
_ROW = re.compile(r"\[([^\[\]]*)\]")
_SYMBOLS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ",
    "º": "°", "掳": "°", "∅": r"\emptyset ", "√": r"\sqrt ", "∘": "°",
}  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_REWRITES = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|operatorname)\s*\{\s*(or|and)\s*\}", r" \1 "),
        (r"\\(?:vee|lor)(?![a-zA-Z])", " or "),
        (r"\\operatorname\s*\{([a-zA-Z]+)\}", r"\\\1 "),
        (r"\\(?:displaystyle|left|right|[bB]igg?[lr]?|limits)(?![a-zA-Z])\.?", ""),
        (r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\leq(?:slant)?(?![a-zA-Z])", r"\\le "),
        (r"\\geq(?:slant)?(?![a-zA-Z])", r"\\ge "),
        (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])", "|"),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}|\A\s*\{\s*\}\s*\Z", r"\\emptyset "),
        (r"\^\s*\{?\s*(?:\\circ|°)(?![a-zA-Z])\s*\}?|\\degree(?![a-zA-Z])", "°"),
        (r"°\s*T(?![a-zA-Z])", "°"),  # a bearing from true north
        (r"\{,\}", ","),
        (r"\\%", "%"),
        (r"\\\$|\$", ""),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"(?<![\\a-zA-Z])(?:oo|inf|infinity)(?![a-zA-Z])", r"\\infty "),
        (r"(?<![\\a-zA-Z])(sqrt|" + "|".join(_FUNCTIONS) + r")(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])(" + "|".join(_GREEK) + r")(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![a-zA-Z\\])[a-zA-Z]\s*\(\s*[a-z]\s*\)\s*=", "y="),  # f(x) = .. is y = ..
        (r"_\s*([0-9]+|[a-zA-Z])", r"_{\1}"),
        (r"\s+", " "),
    )
)
_ROOT = re.compile(r"\\sqrt\s*(\(|[0-9]+|[a-zA-Z])")
_UNIT = re.compile(
    r"(?:\\(?:text|textrm|mathrm|mbox)\s*\{\s*([a-zA-Z°%/]+)(?:\s*\^?\s*\{?([23²³])\}?)?\s*\}"
    r"(?:\s*\^\s*\{?([23])\}?)?|\s([a-zA-Z/]+)(?:\^?\{?([23])\}?)?|(°))\Z"
)
# "units", of whatever kind; and a unit in braces: 69{degrees}, 8{squareinches}
_UNITS = re.compile(
    r"(?:\\(?:text|mathrm)\s*\{)?\s*(?:\b(?:square|cubic|sq)\s+)?\bunits?\s*\}?\s*(?:\^?\s*\{?[23]\}?)?\Z"
)
_BRACED = re.compile(r"\{\s*(square|cubic)?\s*([a-z]{4,12})\s*\}\Z")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_RELATION = re.compile(r"[=<>]|\\(?:[lg]e|[lg]t|neq?)(?![a-zA-Z])")
_ALLOWED = re.compile(r"[0-9a-zA-Z\s+\-*/^_=<>|!.,;:()\[\]{}\\&'°]*")
_RUN = re.compile(r"[0-9]+")
_LETTERS = re.compile(r"[a-zA-Z]+")
_ZERO = re.compile(
    r"/\s*(?:\(\s*0+(?:\.0*)?\s*\)|0+(?:\.0*)?(?![\d.]))|\\frac\s*\{[^{}]*\}\s*\{\s*0+(?:\.0*)?\s*\}"
)
_FACTORIAL = re.compile(r"([0-9]+|[a-zA-Z])?\s*(!+)")
_CODE = re.compile(r"__|import|lambda|exec|eval|open\s*\(")


def to_latex(text: str) -> str:
    """LaTeX for mathematics as it is written: unicode signs, `sqrt(2)`, `2*pi`, `x^2`, `f(x) =`."""
    for sign, latex in _SYMBOLS.items():
        text = text.replace(sign, latex)
    text = _SUPERSCRIPTS.sub(lambda found: f"^{{{_ascii(found[0])}}}", text)
    text = _SUBSCRIPTS.sub(lambda found: f"_{{{_ascii(found[0])}}}", text)
    text = "".join(_greek(char) for char in text)
    for pattern, plain in _REWRITES:
        text = pattern.sub(plain, text)
    return _roots(text).strip().rstrip(".,;").strip()


def matrix(latex: str) -> str:
    """[[1, 2], [3, 4]] as a matrix, other LaTeX as it is."""
    if not _ROWS.fullmatch(latex):
        return latex
    rows = [" & ".join(row.split(",")) for row in _ROW.findall(latex)]
    return "\\begin{bmatrix}" + r" \\ ".join(rows) + "\\end{bmatrix}"


def split_unit(latex: str) -> tuple[str, str]:
    """An expression without the known unit at its end, and that unit ("" where there is none)."""
    units = _UNITS.search(latex)
    if units and units.start():
        return latex[: units.start()].rstrip(), ""
    braced = _BRACED.search(latex)
    if braced and braced[2] in UNITS:
        power = {"square": "2", "cubic": "3"}.get(braced[1], "")
        return latex[: braced.start()].rstrip(), UNITS[braced[2]] + power
    found = _UNIT.search(latex)
    if not found or (found[6] and _TRIGONOMETRY.search(latex)):
        return latex, ""
    name = found[1] or found[4] or found[6]
    power = unicodedata.normalize("NFKC", found[2] or found[3] or found[5] or "")
    plain = name if len(name) == 1 and not found[4] else name.lower()
    unit = UNITS.get(name + power, UNITS.get(plain + power, ""))
    # A single letter that stands alone is a variable.
    if not unit or (found[4] and len(name) == 1):
        return latex, ""
    return latex[: found.start()].rstrip(), unit


def compact(latex: str) -> str:
    """The same LaTeX without spaces and without braces around single characters."""
    return re.sub(r"\{(\w)\}(?!\w)", r"\1", "".join(latex.split()))


def degrees(latex: str, other: str = "") -> str:
    """Degree signs as numbers: radians under a trigonometric function and where the `other` side
    is a multiple of pi without a degree sign, else left out."""
    if _TRIGONOMETRY.search(latex) or ("\\pi" in other and "°" not in other):
        return re.sub(r"([0-9.]+)\s*°", r"(\\frac{\1 \\cdot \\pi}{180})", latex).replace("°", "")
    return latex.replace("°", "")


def problem(latex: str, gold: str = "") -> str:
    """Why an expression is not handed to the computer algebra, "" where it may be.

    Commands that the gold uses are allowed beside the known ones.
    """
    if len(latex) > LENGTH:
        return f"longer than {LENGTH} characters"
    if not _ALLOWED.fullmatch(latex) or _CODE.search(latex):
        return "characters that are not mathematics"
    known = _KNOWN | set(_COMMAND.findall(gold))
    unknown = [name for name in _COMMAND.findall(_MATRIX.sub("", latex)) if name not in known]
    if unknown:
        return f"the command \\{unknown[0]:.20}"
    if _nesting(latex, "([{", ")]}") > NESTING or _nesting(latex, "([", ")]") > BRACKETS:
        return f"nested deeper than {NESTING}, or {BRACKETS} in round brackets"
    if latex.count("|") > BARS:
        return f"more than {BARS} bars"
    if latex.count("^") > POWERS:
        return f"more than {POWERS} powers"
    if len(_RELATION.findall(latex)) > RELATIONS:
        return f"more than {RELATIONS} relations"
    if re.search(rf"(?:[-+] *){{{SIGNS + 1},}}", latex):
        return f"more than {SIGNS} signs in a row"
    if latex.count("&") + latex.count("\\\\") >= ENTRIES:
        return f"a matrix of more than {ENTRIES} entries"
    if max(map(len, _RUN.findall(latex)), default=0) > DIGITS:
        return f"a number of more than {DIGITS} digits"
    words = _LETTERS.findall(_COMMAND.sub(" ", _MATRIX.sub("", latex)))
    if max(map(len, words), default=0) > 3:
        return "words"
    if re.search(r"[0-9]\s+[0-9]", latex):
        return "two numbers side by side"
    if _ZERO.search(latex):
        return "a division by zero"
    return _powers(latex) or _factorials(latex)


def _powers(latex: str) -> str:
    """Exponents that are too large, or that stand on one another."""
    index = latex.find("^")
    while index >= 0:
        start = index + 1
        while latex[start : start + 1] == " ":
            start += 1
        end = start + 1
        if latex[start : start + 1] in ("{", "("):
            end = closing(latex, start) + 1
            if not end:
                return "an exponent that does not close"
        exponent = latex[start:end]
        following = latex[end:].lstrip(" })")
        if "^" in exponent or following.startswith("^"):
            return "an exponent of an exponent"
        largest = max((int(digits) for digits in _RUN.findall(exponent)), default=0)
        if largest > EXPONENT:
            return f"an exponent above {EXPONENT}"
        base = latex[:index].rstrip()
        if base.endswith((")", "}", "]")) and largest > GROUP_EXPONENT:
            return f"a bracket to a power above {GROUP_EXPONENT}"
        if base.endswith((")", "}", "]")) and largest > 1 and _inside_has_power(base):
            return "a power of a power"
        index = latex.find("^", end)
    return ""


def _inside_has_power(base: str) -> bool:
    """Whether the group that ends `base` holds a numeric power above 9."""
    opened = {")": "(", "}": "{", "]": "["}[base[-1]]
    depth = 0
    for index in range(len(base) - 1, -1, -1):
        depth += (base[index] == base[-1]) - (base[index] == opened)
        if not depth:
            powers = re.findall(r"\^\s*[{(]?\s*-?([0-9]+)", base[index:])
            return any(int(power) > 9 for power in powers)
    return True


def _factorials(latex: str) -> str:
    for argument, marks in _FACTORIAL.findall(latex):
        number = argument.isdigit() and int(argument) <= FACTORIAL
        if len(marks) > 1 or not (number or argument.isalpha()):
            return f"a factorial of more than {FACTORIAL} or of an expression"
    return ""


def _nesting(latex: str, opening: str, ending: str) -> int:
    depth = deepest = 0
    for char in latex:
        depth += (char in opening) - (char in ending)
        deepest = max(deepest, depth)
    return deepest


def _roots(text: str) -> str:
    r"""`\sqrt 3`, `\sqrt(x+1)` -> `\sqrt{3}`, `\sqrt{x+1}`."""
    for _ in range(NESTING):
        found = _ROOT.search(text)
        if not found:
            break
        start = found.start(1)
        end = closing(text, start) if found[1] == "(" else found.end(1) - 1
        if end < 0:
            break
        inner = text[start + 1 : end] if found[1] == "(" else found[1]
        text = f"{text[: found.start()]}\\sqrt{{{inner}}}{text[end + 1 :]}"
    return text


def _greek(char: str) -> str:
    if char.isascii():
        return char
    name = unicodedata.name(char, "")
    if name.startswith("GREEK SMALL LETTER ") or name.startswith("GREEK CAPITAL LETTER "):
        letter = name.rsplit(" ", 1)[1].lower()
        letter = letter.capitalize() if "CAPITAL" in name else letter
        letter = {"Lamda": "Lambda", "lamda": "lambda"}.get(letter, letter)
        return f"\\{letter} " if letter in _GREEK else char
    return char


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-")
