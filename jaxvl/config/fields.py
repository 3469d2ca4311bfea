# SPDX-License-Identifier: Apache-2.0
"""Fields of nested frozen dataclasses: checked by annotation, written as JSON."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import re
import types
import typing
from typing import Any, Literal

from jaxvl.data.example import Source
from jaxvl.errors import UserError

_PLACES = ("jaxvl.config.schema", "jaxvl.config.grpo")


class Missing:
    """Stands in a field that must be set and is not yet; `check_types` says so."""


MISSING = Missing()


def check_types(node: Any, path: str = "") -> None:
    """Raise UserError unless each field holds what it is annotated with, nested ones included."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value, where = getattr(node, field.name), f"{path}{field.name}"
        if value is MISSING:
            hint = f"set {where} too"
            if hints[field.name] is Source:  # that made by setting a field of it
                hint = f"set a field of it, as {where}.path=FILE; others are as in data.source"
            raise UserError(f"{where} is missing: expected {type_name(hints[field.name])}; {hint}")
        if not _fits(value, hints[field.name]):
            found = f"{value!r:.60} ({type(value).__name__})"
            raise UserError(f"{where}: expected {type_name(hints[field.name])}, found {found}")
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    check_types(item, f"{where}.{index}.")
        elif type(value) in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(value):
                check_types(value, f"{where}.")


def to_json(value: Any) -> Any:
    """`value` as what JSON can hold; functions and classes as "module:qualname"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        fields = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            fields[field.name] = to_json(item)
            if len(choices(hints[field.name])) > 1:
                fields[field.name] = {"type": type(item).__name__, **fields[field.name]}
        known = type(value).__module__ in _PLACES  # by its place; a source says what it is
        return fields if known else {"type": _qualname(type(value)), **fields}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, (set, frozenset)):  # whose order is another in every process
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, functools.partial):
        bound = {"args": to_json(value.args), "keywords": to_json(value.keywords)}
        return {"partial": to_json(value.func), **bound}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _qualname(value) if callable(value) else str(value)


def from_json(kind: type, fields: dict[str, Any]) -> Any:
    """The dataclass `kind` of a config from what `to_json` made of it; a field that is missing has
    its default. Of fields that hold functions or sources nothing can be made."""
    hints, found = typing.get_type_hints(kind), {}
    for name, value in fields.items():
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, dict):
            kinds = {one.__name__: one for one in choices(hints[name]).values()}
            made = kinds[value["type"]] if "type" in value else next(iter(kinds.values()))
            value = from_json(made, {key: x for key, x in value.items() if key != "type"})
        found[name] = value
    return kind(**found)


def _qualname(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}:{kind.__qualname__}"


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if kind is Source:
        return callable(getattr(value, "load", None))
    if kind in (int, float):
        allowed = (int,) if kind is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, kind)


def choices(kind: Any) -> dict[str, type]:
    """The dataclasses that a field may hold, by their names ("dr_grpo"); {} for any other field,
    and where one of them has no default for a field of its own. None may stand beside them."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return {}
    kinds = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    if not all(dataclasses.is_dataclass(k) and _has_defaults(k) for k in kinds):
        return {}
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", k.__name__).lower(): k for k in kinds}


def _has_defaults(kind: type) -> bool:
    missing = dataclasses.MISSING
    return all(
        field.default is not missing or field.default_factory is not missing
        for field in dataclasses.fields(kind)
    )


def type_name(kind: Any) -> str:
    """An annotation for people: "int or none", "one of constant, linear", "a tuple of int"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"a tuple of {type_name(args[0])}"
    if kind is bool:
        return "true or false"
    if kind is Source:
        return "a source (an object with load())"
    if kind is type(None):
        return "none"
    return "a function" if origin is not None else getattr(kind, "__name__", str(kind))
