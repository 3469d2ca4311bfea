# SPDX-License-Identifier: Apache-2.0
"""Whether two expressions are equal, by math-verify. Runs in worker processes only (`pool`).

What is fenced in math-verify 0.9.0 and its parser:

- its time limits are signals of the main thread, and end by cancelling the alarms of others;
- `parse` searches a text for LaTeX by regular expressions, some of them quadratic, and without
  LaTeX takes the first number it finds: here the parser gets a whole expression or nothing;
- it folds the case of variables (R^2 - r^2 is 0 for it) and drops units and percent signs;
- it compares decimals at six places, so that 1.414214 is the square root of 2 and all very small
  numbers are equal: here they are exact, and compared to hundreds of digits;
- simplification is asked for every pair: here only for those that are equal at some points;
- two equations without solutions are equal for it;
- a single variable is for it equal to nothing but itself, 2x/2 included.
"""

from __future__ import annotations

import cmath
import functools
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import (
    ExprExtractionConfig,
    LatexExtractionConfig,
    StringExtractionConfig,
    parse,
    verify,
)
from math_verify.grader import should_treat_as_complex
from sympy import Eq, Expr, Float, Rational, nan, simplify, solve, zoo

_SHAPE = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
DIGITS = 400  # to which values are compared that are equal as floats
# Where expressions are compared before they are simplified; positive, and no special values.
_POINTS = ((0.7310586, 0.3187), (1.6180341, 0.2764), (2.7182819, 0.4693))


class _Kind(NamedTuple):
    """Complex numbers to compute with: how to make one, and their functions."""

    number: Callable[[Any], Any]
    functions: Any
    gamma: Callable[[Any], Any]


def _long(value: Any) -> Any:
    """A number of as many digits as are worked with."""
    if hasattr(value, "_to_mpmath"):
        return mpmath.mpmathify(value._to_mpmath(mpmath.mp.prec))
    return mpmath.mpmathify(value)


_FLOATS = _Kind(complex, cmath, math.gamma)
_LONG = _Kind(_long, mpmath.mp, mpmath.gamma)


def texts(gold: str, found: str) -> str:
    """math-verify's own verdict on two whole texts, as VisualThinker's reward asks for it."""
    right = parse(gold, parsing_timeout=None)
    read = parse(found, parsing_timeout=None)
    return "match" if right and verify(read, right, timeout_seconds=None) else "mismatch"


def listed(gold: list[str], found: str, strings: list[str]) -> str:
    """math-verify's own verdict on a text in which it looks for `strings`, numbers and LaTeX, as
    VisualThinker's CV-Bench script asks for it."""
    where = [LatexExtractionConfig(), ExprExtractionConfig()]
    where.append(StringExtractionConfig(strings=tuple(strings)))
    read = parse(found, extraction_config=where, parsing_timeout=None)
    if not read:
        return "refused"
    return "match" if verify(gold, read, timeout_seconds=None) else "mismatch"


def expressions(gold: str, found: str, tolerance: float) -> str:
    """The outcome for two LaTeX expressions, which may be equations; equal to within `tolerance`
    where that is not 0."""
    right = _parsed(gold)
    if right is None or (_has_variables(gold) and not right.free_symbols):
        return "bad_gold"
    read = _parsed(found)
    if read is None:
        return "refused"
    if isinstance(right, Eq) or isinstance(read, Eq):
        if right.free_symbols != read.free_symbols:
            return "mismatch"
        if _has_no_solution(right):
            return "bad_gold"
    elif isinstance(right, Expr) and isinstance(read, Expr):
        equal = _near(right, read, tolerance)
        if tolerance or equal is False:
            return "match" if equal else "mismatch"
        if right.is_Symbol or read.is_Symbol:
            return "match" if simplify(right - read) == 0 else "mismatch"
    equal = verify(right, read, timeout_seconds=None, allow_set_relation_comp=True)
    return "match" if equal else "mismatch"


def _near(right: Expr, read: Expr, tolerance: float) -> bool | None:
    """Whether two expressions have the same values at a few points; None where that cannot be said.

    OverflowError where the found value is too large for a float, as no right answer is.
    """
    if not tolerance and None not in (exact := (_exact(right), _exact(read))):
        return exact[0] == exact[1]
    names = sorted(right.free_symbols | read.free_symbols, key=str)
    for start, step in _POINTS if names else _POINTS[:1]:
        values = {name: start + step * index for index, name in enumerate(names)}
        try:
            a, b = _value(right, values, _FLOATS), _value(read, values, _FLOATS)
        except (ZeroDivisionError, ValueError, NotImplementedError):
            return None
        if not cmath.isfinite(a - b):
            raise OverflowError
        # What floats leave of a zero such as sin(pi), and of the last digits of both.
        if abs(a - b) > (tolerance or 1e-12) + 1e-9 * max(abs(a), abs(b)):
            return False
        if not tolerance and not (same := _same_digits(right, read, values)):
            return same
    return True


def _exact(node: Any) -> Fraction | None:
    """The value of rational arithmetic, None for any other expression."""
    if node.is_Rational:
        return Fraction(int(node.p), int(node.q))
    if type(node).__name__ not in ("Add", "Mul", "Pow", "UnevaluatedExpr"):
        return None
    parts = []
    for part in node.args:
        value = _exact(part)
        if value is None:
            return None
        parts.append(value)
    if type(node).__name__ == "Pow":
        base, exponent = parts
        whole = exponent.denominator == 1 and abs(exponent) <= 2000 and (base or exponent > 0)
        return base**exponent.numerator if whole else None
    if type(node).__name__ == "Mul":
        return math.prod(parts, start=Fraction(1))
    return sum(parts, Fraction(0))


def _same_digits(right: Expr, read: Expr, values: Mapping[Any, float]) -> bool | None:
    """Whether values that are equal as floats, or both very small, agree in DIGITS digits; None
    where that cannot be said."""
    with mpmath.workdps(DIGITS + 20):
        try:
            a, b = _value(right, values, _LONG), _value(read, values, _LONG)
        except (ZeroDivisionError, ValueError, OverflowError, NotImplementedError):
            return None
        error, largest = abs(a - b), max(abs(a), abs(b))
        least = mpmath.mpf(10) ** -DIGITS
        if largest < least:  # what is left of a zero such as sin(pi), or a number that small
            return True if error == 0 else None
        return bool(error <= largest * least)


def _value(node: Any, values: Mapping[Any, float], kind: _Kind) -> Any:
    """A sympy expression's value, in time linear in its size (evalf is exponential in its depth).

    NotImplementedError for what is not listed here.
    """
    if node in values:
        return kind.number(values[node])
    if node.is_Number or node.is_NumberSymbol or (node.is_number and not node.args):
        return kind.number(node)
    name = type(node).__name__
    parts = [_value(part, values, kind) for part in node.args]
    if name in ("Add", "Mul"):
        return sum(parts) if name == "Add" else math.prod(parts)
    if name == "Pow":
        base, exponent = parts
        return base**exponent
    if name == "UnevaluatedExpr":
        return parts[0]
    if name == "Abs":
        return kind.number(abs(parts[0]))
    if name == "log":
        return kind.functions.log(*parts)
    if name == "factorial" and parts[0].imag == 0 and abs(parts[0]) < 100:
        return kind.number(kind.gamma(parts[0].real + 1))
    if name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp"):
        return getattr(kind.functions, name)(parts[0])
    if name in ("cot", "sec", "csc"):
        inverse = {"cot": "tan", "sec": "cos", "csc": "sin"}[name]
        return 1 / getattr(kind.functions, inverse)(parts[0])
    raise NotImplementedError(name)


@functools.lru_cache(1000)  # a gold is met by every completion of its group
def _parsed(latex: str) -> Any:
    """The sympy object, None where the parser does not read all of it or it has no value."""
    try:
        parsed = latex2sympy(
            normalize_latex(latex, config=_SHAPE),
            is_real=not should_treat_as_complex(latex),
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
        exact = {number: Rational(str(number)) for number in parsed.atoms(Float)}
        parsed = parsed.xreplace(exact) if exact else parsed
        return None if parsed.has(zoo, nan) else parsed
    except Exception:
        return None


def _has_no_solution(equation: Any) -> bool:
    try:
        return not solve(equation, equation.free_symbols)
    except NotImplementedError:
        return False


def _has_variables(latex: str) -> bool:
    letters = re.sub(r"\\[a-zA-Z]+(?:\{[a-z]*matrix\})?", "", latex)
    return bool(set(re.findall(r"[a-zA-Z]", letters)) - {"e", "i"})
