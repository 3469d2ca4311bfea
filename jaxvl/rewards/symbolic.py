# SPDX-License-Identifier: Apache-2.0
"""Whether two expressions are equal, by math-verify. Runs in worker processes only (`pool`).

What is fenced in math-verify 0.9.0 and its parser:

- its time limits are signals of the main thread, and end by cancelling the alarms of others;
- `parse` searches a text for LaTeX by regular expressions, some of them quadratic, and without
  LaTeX takes the first number it finds: here the parser gets a whole expression or nothing;
- it folds the case of variables (R^2 - r^2 is 0 for it) and drops units and percent signs;
- it compares decimals at six places, so that 1.414214 is the square root of 2: here they are exact;
- simplification is asked for every pair: here only for those that are equal at some points;
- two equations without solutions are equal for it;
- a single variable is for it equal to nothing but itself, 2x/2 included.
"""

from __future__ import annotations

import cmath
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

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
# Where expressions are compared before they are simplified; positive, and no special values.
_POINTS = ((0.7310586, 0.3187), (1.6180341, 0.2764), (2.7182819, 0.4693))


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
    names = sorted(right.free_symbols | read.free_symbols, key=str)
    for start, step in _POINTS if names else _POINTS[:1]:
        values = {name: start + step * index for index, name in enumerate(names)}
        try:
            a, b = _value(right, values), _value(read, values)
        except (ZeroDivisionError, ValueError, NotImplementedError):
            return None
        if not cmath.isfinite(a - b):
            raise OverflowError
        # What floats leave of a zero such as sin(pi), and of the last digits of both.
        if abs(a - b) > (tolerance or 1e-12) + 1e-9 * max(abs(a), abs(b)):
            return False
    return True


def _value(node: Any, values: Mapping[Any, float]) -> complex:
    """A sympy expression's value, in time linear in its size (evalf is exponential in its depth).

    NotImplementedError for what is not listed here.
    """
    if node in values:
        return complex(values[node])
    if node.is_Number or node.is_NumberSymbol or node.is_number and not node.args:
        return complex(node)
    name = type(node).__name__
    parts = [_value(part, values) for part in node.args]
    if name in ("Add", "Mul"):
        return sum(parts) if name == "Add" else math.prod(parts)
    if name == "Pow":
        base, exponent = parts
        return base**exponent
    if name == "UnevaluatedExpr":
        return parts[0]
    if name == "Abs":
        return complex(abs(parts[0]))
    if name == "log":
        return cmath.log(*parts)
    if name == "factorial" and parts[0].imag == 0 and abs(parts[0]) < 100:
        return complex(math.gamma(parts[0].real + 1))
    if name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp"):
        return getattr(cmath, name)(parts[0])
    if name in ("cot", "sec", "csc"):
        inverse = {"cot": cmath.tan, "sec": cmath.cos, "csc": cmath.sin}[name]
        return 1 / inverse(parts[0])
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
