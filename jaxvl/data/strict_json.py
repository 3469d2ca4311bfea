# SPDX-License-Identifier: Apache-2.0
"""JSON of a user's files, in which nothing is lost: a key that stands twice is an error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

MOST_BYTES = 2**29  # of a file that is read as a whole


class DuplicateKey(ValueError):
    """An object that has a key twice; Python's json would take the last value alone."""


def loads(data: str | bytes) -> Any:
    """What `json.loads` gives; `DuplicateKey`, a ValueError as broken JSON is, names the key."""
    return json.loads(data, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        values = [value for name, value in pairs if name == twice]
        raise DuplicateKey(
            f"the key {twice!r:.80} stands {len(values)} times in an object, as "
            f"{values[0]!r:.80} and {values[-1]!r:.80}; expected it once"
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file; UserError where it is not an object."""
    if not path.is_file():
        return {}
    try:
        value = loads(contents(path))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def contents(path: Path) -> bytes:
    """The bytes of a file; UserError where they are too many to be read as a whole."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{path} has {size} bytes; expected at most {MOST_BYTES}")
    return path.read_bytes()
