# SPDX-License-Identifier: Apache-2.0
"""Arguments of another trainer: read from text, and taken one by one, so that none is lost."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from jaxvl.errors import UserError

VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")  # of a shell


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of an argument: fields of jaxvl ("" where none), and what differs and why."""

    given: str
    becomes: str = ""
    note: str = ""

    def __str__(self) -> str:
        told = f"{self.given:<44} -> {self.becomes or '(nothing)'}"
        return f"{told}   # {self.note}" if self.note else told


class Given:
    """Arguments by name. What is not taken is listed by `unknown`."""

    def __init__(self, values: Mapping[str, Any]):
        self.left = dict(values)
        self.lines: list[Line] = []
        self._all = tuple(values.values())

    def has(self, *names: str) -> bool:
        """Whether one of `names` is given and not yet taken."""
        return any(name in self.left for name in names)

    def take(self, names: str, default: Any = None, becomes: str = "", note: str = "") -> Any:
        """The value of the first of `names` (one or several, by spaces) that is given, as a line;
        else `default`, as a line where that says something of a field."""
        for name in names.split():
            if name in self.left:
                value = self.left.pop(name)
                self.lines.append(Line(f"{name} = {shown(value)}", becomes, note))
                return value
        if becomes and default is not None:
            first = names.split()[0]
            self.lines.append(Line(f"{first} (default: {shown(default)})", becomes, note))
        return default

    def number(self, names: str, default: Any = None, becomes: str = "", note: str = "") -> Any:
        """`take`, where the value has to be a number; the default where it is none."""
        value = self.take(names, default, becomes, note)
        if value is None or value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{names.split()[0]}: expected a number, found {shown(value)}")
        if not math.isfinite(value):
            raise UserError(f"{names.split()[0]}: expected a finite number, found {value}")
        return value

    def whole(self, names: str, default: Any = None, becomes: str = "", note: str = "") -> Any:
        """`number`, where it has to be a whole one."""
        value = self.number(names, default, becomes, note)
        if value is not None and value != int(value):
            raise UserError(f"{names.split()[0]}: expected a whole number, found {value}")
        return value if value is None else int(value)

    def text(self, names: str, default: Any = None, becomes: str = "", note: str = "") -> Any:
        """`take`, where the value has to be a word, which may look like a number."""
        value = self.take(names, default, becomes, note)
        if isinstance(value, (bool, list, dict)):
            found = "none" if value is True else shown(value)
            raise UserError(f"{names.split()[0]}: expected one word, found {found}")
        return default if value is None else str(value)

    def flag(self, names: str, default: bool, becomes: str = "", note: str = "") -> bool:
        """`take`, where the value has to be true or false."""
        value = self.take(names, default, becomes, note)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if value in (0, 1):
            return bool(value)
        raise UserError(f"{names.split()[0]}: expected true or false, found {shown(value)}")

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Takes what stands for nothing here: names by the reason."""
        for reason, names in reasons.items():
            for name in names.split():
                if name in self.left:
                    self.take(name, note=reason)

    def drop_below(self, prefix: str, reason: str) -> None:
        """Takes all names that begin with `prefix`; `reason` is noted at each."""
        for name in [name for name in self.left if name.startswith(prefix)]:
            self.take(name, note=reason)

    def tell_variables(self) -> None:
        """A line for each variable of a shell that stands in a value as it is."""
        names = {found[0]: None for value in self._all for found in VARIABLE.finditer(str(value))}
        for name in names:
            self.lines.append(
                Line(name, "", "NOT THERE: a variable of a shell stays as it is; set what holds it")
            )

    def unknown(self) -> dict[str, Any]:
        """What has not been taken."""
        return self.left


def shown(value: Any) -> str:
    """A value as YAML words it, cut to 60 characters."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def numbers(name: str, given: Any) -> list[float]:
    """A list, one number, or text with commas as numbers; UserError where they are none."""
    words = given.split(",") if isinstance(given, str) else given
    words = words if isinstance(words, list) else [] if words is None else [words]
    try:
        return [float(word) for word in words]
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected numbers, found {shown(given)}") from None


def scalar(text: str) -> Any:
    """A word of a command line or of YAML: true, none, a number (1e-5 too), or text."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() in ("none", "null", "~", ""):
        return None
    for kind in (int, float):
        try:
            return kind(word) if re.match(r"[-+.\d]", word) else word
        except ValueError:
            continue
    return word


def command_line(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--name value ..`, `--name=value` and `--name` alone (true) of a command, whatever starts it;
    and its words `a.b=value` and `config=FILE`. A name with several values has a list. Variables
    that a script sets before its command (`NAME=value`) are filled in."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise UserError(f"the arguments cannot be read ({error}): `{text:.80}`") from None
    named: dict[str, list[str]] = {}
    dotted: dict[str, Any] = {}
    variables: dict[str, str] = {}
    name = ""
    for word in words:
        word = VARIABLE.sub(lambda found: variables.get(found[1], found[0]), word)
        if re.match(r"--[A-Za-z]", word):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            named[name] = [value] if equals else []
        elif re.match(r"([a-z_]+(\.[a-z_0-9]+)+|config)=", word):
            path, _, value = word.partition("=")
            dotted[path], name = scalar(value), ""
        elif name and not word.endswith(".py"):
            named[name].append(word.rstrip(","))
        elif assigned := re.match(r"([A-Za-z_]\w*)=", word):
            variables[assigned[1]] = word[assigned.end() :]
    found = {}
    for key, values in named.items():
        items = [scalar(value) for value in values if value]
        found[key] = True if not values else items[0] if len(items) == 1 else items
    return found, dotted


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names; texts that YAML left as such are read as `scalar` does."""
    if isinstance(value, dict) and value:
        return {k: x for key, item in value.items() for k, x in flat(item, f"{path}{key}.").items()}
    return {path[:-1]: scalar(value) if isinstance(value, str) else value}
