# SPDX-License-Identifier: Apache-2.0
"""Fields of nested frozen dataclasses: set by a dotted path from text, checked by annotation,
written as JSON.

Text is parsed by the annotation of the field it is for and never evaluated. A field that holds one
of several dataclasses takes the name of one, as its class or in lower case ("DrGrpo", "dr_grpo").
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

from jaxvl.data.example import Source
from jaxvl.errors import UserError

_PLACES = ("jaxvl.config.schema", "jaxvl.config.grpo")


def set_field(cfg: Any, override: str) -> Any:
    """A copy of the dataclass `cfg` with one field replaced; `override` is "a.b=value"."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"`{override}` is not an override; write field=value, as grpo.group=4")
    return _set(cfg, path.split("."), text, path, cfg)


def check_types(node: Any, path: str = "") -> None:
    """Raise UserError unless each field holds what it is annotated with, nested ones included."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value, where = getattr(node, field.name), f"{path}{field.name}"
        if not _fits(value, hints[field.name]):
            found = f"{value!r:.60} ({type(value).__name__})"
            raise UserError(f"{where}: expected {_type_name(hints[field.name])}, found {found}")
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
            if len(_choices(hints[field.name])) > 1:
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
            kinds = {one.__name__: one for one in _choices(hints[name]).values()}
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


def _set(node: Any, keys: list[str], text: str, path: str, root: Any) -> Any:
    """`node` with the field at `keys` set to `text`; `path` and `root` are for messages."""
    key, rest = keys[0], keys[1:]
    if isinstance(node, tuple):
        if not key.isdecimal() or int(key) >= len(node):
            raise UserError(f"{path}: no item `{key}`; expected a number from 0 to {len(node) - 1}")
        if not rest:
            raise UserError(f"{path}: an item cannot be set here; set a field of it")
        items = list(node)
        items[int(key)] = _set(node[int(key)], rest, text, path, root)
        return tuple(items)
    if not dataclasses.is_dataclass(node):
        raise UserError(f"{path}: no field `{key}` in a {type(node).__name__}")
    if key not in {field.name for field in dataclasses.fields(node)}:
        raise UserError(
            f"{path}: no field `{key}` in {type(node).__name__}{_suggest(key, node, root)}"
        )
    if rest:
        return dataclasses.replace(node, **{key: _set(getattr(node, key), rest, text, path, root)})
    kind = typing.get_type_hints(type(node))[key]
    value = getattr(node, key)
    if text.lower() == "none" and type(None) in typing.get_args(kind):
        return dataclasses.replace(node, **{key: None})
    if dataclasses.is_dataclass(value) and not _choices(kind):
        raise UserError(f"{path} is a {type(value).__name__}; set a field of it, as {path}.x=1")
    return dataclasses.replace(node, **{key: _parse(text, kind, path)})


def _suggest(key: str, node: Any, root: Any) -> str:
    """A hint from the fields beside a wrong name, else from the whole config."""
    near = difflib.get_close_matches(key, [field.name for field in dataclasses.fields(node)], n=1)
    near = near or [path for path in _paths(root) if path.endswith(f".{key}")]
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; its fields are {', '.join(field.name for field in dataclasses.fields(node))}"


def _paths(node: Any, prefix: str = "") -> list[str]:
    """Dotted paths of the fields below `node` that are no dataclasses."""
    if not dataclasses.is_dataclass(node):
        return [prefix[:-1]]
    fields = [field.name for field in dataclasses.fields(node)]
    return [path for name in fields for path in _paths(getattr(node, name), f"{prefix}{name}.")]


def _parse(text: str, kind: Any, path: str) -> Any:
    """`text` as a `kind` (an annotation)."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    word = text.strip()
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and word.lower() == "none":
            return None
        if choices := _choices(kind):
            return _choose(word, choices, path)
        kinds = [arg for arg in args if arg is not type(None)]
        words = [arg for arg in kinds if typing.get_origin(arg) is Literal]
        others = [arg for arg in kinds if arg not in words]
        for choice in words:  # a word that is one of these, or else a value
            if word in typing.get_args(choice) or not others:
                return _parse(text, choice, path)
        return _parse(text, others[0], path) if len(others) == 1 else _refuse(path, kind)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        items = word.strip("()[]").split(",")
        return tuple(_parse(item, args[0], path) for item in items if item.strip())
    try:
        if kind is bool:
            return {"true": True, "false": False}[word.lower()]
        if kind is int or kind is float:
            value = kind(word)
            if not math.isfinite(value):
                raise ValueError
            return value
        if origin is Literal:
            return {str(arg): arg for arg in args}[word]
    except (ValueError, KeyError):
        raise UserError(f"{path}: expected {_type_name(kind)}, found `{text}`") from None
    return kind(text) if kind in (str, Path) else _refuse(path, kind)


def _choices(kind: Any) -> dict[str, type]:
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


def _choose(word: str, choices: dict[str, type], path: str) -> Any:
    """A fresh one of `choices`, with its fields as they stand in its class."""
    plain = {name.replace("_", ""): kind for name, kind in choices.items()}
    kind = plain.get(word.lower().replace("_", ""))
    if kind is None:
        raise UserError(f"{path}: expected one of {', '.join(choices)}, found `{word}`")
    return kind()


def _refuse(path: str, kind: Any) -> typing.NoReturn:
    raise UserError(
        f"{path} holds {_type_name(kind)} and cannot be set on the command line; "
        "edit the config file"
    )


def _type_name(kind: Any) -> str:
    """An annotation for people: "int or none", "one of constant, linear", "a tuple of int"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"a tuple of {_type_name(args[0])}"
    if kind is bool:
        return "true or false"
    if kind is Source:
        return "a source (an object with load())"
    if kind is type(None):
        return "none"
    return "a function" if origin is not None else getattr(kind, "__name__", str(kind))
