# SPDX-License-Identifier: Apache-2.0
"""YAML of a user's files and of datasets' cards: plain values, no key twice, and no more of them
than the text has room for."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

MOST_VALUES = 100_000  # an alias stands for all that it names, and a few lines of them for billions


def loads(text: str) -> Any:
    """What `yaml.safe_load` gives; ValueError for any text that is not to be read."""
    try:
        found = yaml.load(text, _Loader)
        _check_size(found)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return found


class _Loader(yaml.SafeLoader):
    """In which a mapping that has a key twice is an error: PyYAML takes the last value alone."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = key.value if isinstance(key.value, str) else None
            if name is not None and (key.tag, name) in seen:
                raise ValueError(
                    f"line {key.start_mark.line + 1}: the key {name!r:.80} stands twice; expected "
                    "it once"
                )
            seen.add((key.tag, name))
        return super().construct_mapping(node, deep)


def _check_size(found: Any) -> None:
    """Each value is counted where it stands, so that those that hold themselves have no end."""
    waiting, count = [found], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(
                f"its aliases stand for more than {MOST_VALUES} values, or for themselves; write "
                "the values out"
            )
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
