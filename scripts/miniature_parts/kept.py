# SPDX-License-Identifier: Apache-2.0
"""What is kept of an experiment, taken only where it was made at the sizes that are asked for."""

from __future__ import annotations

import json
from pathlib import Path

from jaxvl.errors import UserError
from miniature_parts.arms import Sizes

# Sizes that change what a result is and are in no file's name; of stages the names have the steps.
COMPARED = ("own", "questions", "samples", "greedy")


def result(file: Path, sizes: Sizes) -> dict | None:
    """What was measured of an arm, None where nothing was yet. UserError where that was at other
    sizes: a table of both would be of nothing."""
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    known = found.get("sizes", {})
    wanted = {name: getattr(sizes, name) for name in COMPARED}
    others = [
        f"{n} {known.get(n)}, not {size}" for n, size in wanted.items() if known.get(n) != size
    ]
    if others:
        raise _other(file, "; ".join(others))
    return found


def check_own(file: Path, sizes: Sizes) -> None:
    """UserError where the base's own replies are to another number of questions."""
    count = len(file.read_text(encoding="utf-8").splitlines())
    if count != sizes.own:
        raise _other(file, f"own {count}, not {sizes.own}")


def _other(file: Path, how: str) -> UserError:
    return UserError(
        f"{file} was made at other sizes ({how}; --tiny makes such): give another --out, or take "
        "its folder away"
    )
