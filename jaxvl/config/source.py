# SPDX-License-Identifier: Apache-2.0
"""A config written as a Python file that makes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxvl.config.fields import MISSING
from jaxvl.errors import UserError

_WIDTH = 96


def python(cfg: Any, head: str, notes: Mapping[str, str] | None = None) -> str:
    """The text of a config file whose `config()` returns `cfg`, its fields as far as they are not
    the defaults.

    `head` becomes the docstring; `notes` stand as comments above fields, by their dotted paths. The
    functions and classes in it are such as can be imported by name.
    """
    writer = _Writer(dict(notes or {}))
    body = writer.value(cfg, "", 1)
    kind = type(cfg).__name__
    imports = "".join(
        f"from {module} import {', '.join(sorted(names))}\n"
        for module, names in sorted(writer.imports.items())
    )
    head = head.strip().replace("\\", "\\\\").replace('"""', r"\"\"\"")
    if head.endswith('"'):
        head += "\n"
    return f'"""{head}\n"""\n\n{imports}\n\ndef config() -> {kind}:\n    return {body}\n'


class _Writer:
    def __init__(self, notes: dict[str, str]):
        self.notes = notes
        self.imports: dict[str, set[str]] = {}

    def value(self, value: Any, path: str, depth: int) -> str:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._import(type(value))
            return self._call(value, path, depth)
        if isinstance(value, tuple):
            items = [self.value(item, f"{path}.{n}", depth + 1) for n, item in enumerate(value)]
            return self._joined("(", items, ")", depth, bool(len(items) == 1))
        if value is None or isinstance(value, (bool, int, float, str)):
            return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
        if value is MISSING or not hasattr(value, "__qualname__") or "<" in value.__qualname__:
            raise UserError(f"{path}: {value!r:.60} cannot be written into a config file")
        return self._import(value)

    def _import(self, thing: Any) -> str:
        module = "jaxvl.config" if thing.__module__.startswith("jaxvl.config") else thing.__module__
        module = "jaxvl.rewards" if module.startswith("jaxvl.rewards.") else module
        self.imports.setdefault(module, set()).add(thing.__name__)
        return thing.__name__

    def _call(self, node: Any, path: str, depth: int) -> str:
        items = []
        for field in dataclasses.fields(node):
            value, where = getattr(node, field.name), f"{path}.{field.name}".lstrip(".")
            note = self.notes.get(where, "")
            named = field.name == "name" and value == getattr(
                getattr(node, "fn", None), "__name__", None
            )
            default = field.default is not dataclasses.MISSING and value == field.default
            if field.init and not named and (note or not default):
                text = f"{field.name}={self.value(value, where, depth + 1)}"
                pad = "    " * (depth + 1)
                items.append("".join(f"# {line}\n{pad}" for line in note.splitlines()) + text)
        return self._joined(f"{type(node).__name__}(", items, ")", depth, False)

    def _joined(self, begin: str, items: list[str], end: str, depth: int, comma: bool) -> str:
        """On one line where it fits, else one item a line."""
        line = begin + ", ".join(items) + "," * comma + end
        if "\n" not in line and len(line) + 4 * depth + 16 < _WIDTH:
            return line
        pad = "    " * (depth + 1)
        return begin + "".join(f"\n{pad}{item}," for item in items) + f"\n{pad[:-4]}{end}"
