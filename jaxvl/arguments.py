# SPDX-License-Identifier: Apache-2.0
"""Arguments of functions that people call by hand: what is of a wrong kind is told in words."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

SEEDS = (-(2**63), 2**63 - 1)


def found(value: Any) -> str:
    """A value in a message: a plain one as it is written, any other by its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.60}"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"a {name}"


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int: a whole number (numpy's too) from `least` to `most`, no bool, no float."""
    fits = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    fits = fits and (least is None or value >= least) and (most is None or value <= most)
    if not fits:
        raise UserError(f"{name}={found(value)}: expected a whole number{_span(least, most)}")
    return int(value)


def number(name: str, value: Any, least: float | None = None, most: float | None = None) -> float:
    """`value` as a finite float from `least` to `most`."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    fits = fits and (least is None or value >= least) and (most is None or value <= most)
    if not fits:
        raise UserError(f"{name}={found(value)}: expected a number{_span(least, most)}")
    return float(value)


def _span(least: float | None, most: float | None) -> str:
    if most is None:
        return "" if least is None else f" of {least} or more"
    return f" from {least} to {most}"


def flag(name: str, value: Any) -> bool:
    """True or False; UserError for anything else, 0 and 1 included."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={found(value)}: expected True or False")
    return value


def path(name: str, value: Any) -> Path:
    """A place on this machine, `~` expanded: text or a Path, no URL."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise UserError(f"{name}: expected a path, found {found(value)}")
    if "://" in str(value)[:10]:
        raise UserError(f"{name}: expected a path on this machine, found the URL {value!r:.80}")
    return Path(value).expanduser()


def model(value: Any) -> Any:
    """Where a model is, as it was given: a path or a hub id."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UserError(f"expected a checkpoint's directory or a hub id, found {found(value)}")
    if "://" in str(value)[:10]:
        raise UserError(
            f"{value}: a URL, and nothing is fetched from one; give the hub id "
            "(Qwen/Qwen2-VL-2B-Instruct), or a directory with the files"
        )
    return value


def new_directory(value: Any) -> Path:
    """A path where a directory can be written: UserError where something is there already."""
    out = path("the directory to write", value)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty directory; choose another")
    return out


def items(name: str, value: Any, of: str) -> Sequence[Any]:
    """A list (a tuple, an array) of `of` in words, which one text or one mapping is not."""
    if isinstance(value, (str, bytes)):
        raise UserError(f"{name}: expected a list of {of}, found one string; put it in []")
    if hasattr(value, "tolist"):  # numpy's, and jax's
        value = value.tolist()
    if not isinstance(value, Sequence):
        raise UserError(f"{name}: expected a list of {of}, found {found(value)}")
    return value
