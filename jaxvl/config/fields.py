# SPDX-License-Identifier: Apache-2.0
"""Fields of nested frozen dataclasses: checked by annotation, described, written as JSON."""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import functools
import inspect
import itertools
import math
import re
import textwrap
import typing
from typing import Annotated, Any, Literal

from jaxvl.config.ranges import held, in_range, is_union, range_words
from jaxvl.data.example import Source
from jaxvl.errors import UserError


class Missing:
    """Stands in a field that must be set and is not yet; `check_fields` says so."""


MISSING = Missing()


def check_fields(node: Any, path: str = "") -> None:
    """Raise UserError unless each field holds what it is annotated with, in its range; nested ones
    included."""
    hints = typing.get_type_hints(type(node), include_extras=True)
    for field in dataclasses.fields(node):
        value, where = getattr(node, field.name), f"{path}{field.name}"
        if value is MISSING:
            hint = f"set {where} too"
            if hints[field.name] is Source:  # that made by setting a field of it
                hint = f"set a field of it, as {where}.path=FILE; others are as in data.source"
            raise UserError(f"{where} is missing: expected {type_name(hints[field.name])}; {hint}")
        _check(value, hints[field.name], where)


def _check(value: Any, kind: Any, where: str) -> None:
    fitting = [one for one in kinds_of(kind) if _fits(value, one)]
    if not fitting:
        found = f"{value!r:.60} ({type(value).__name__})"
        raise UserError(f"{where}: expected {type_name(kind)}, found {found}")
    _check_range(value, fitting, kind, where)
    if isinstance(value, tuple):
        (item,) = {typing.get_args(one)[0] for one in fitting}
        for index, one in enumerate(value):
            _check(one, item, f"{where}.{index}")
    elif any(dataclasses.is_dataclass(one) for one in fitting):
        check_fields(value, f"{where}.")
    elif Source in fitting:
        _check_source(value, where)


def _check_source(source: Any, where: str) -> None:
    """Of a source, which may be anybody's class, the numbers that say their range, and those of the
    sources that it is made of."""
    if isinstance(source, tuple):
        for index, one in enumerate(source):
            _check_source(one, f"{where}.{index}")
    if not dataclasses.is_dataclass(source):
        return
    try:
        hints = typing.get_type_hints(type(source), include_extras=True)
    except (NameError, TypeError):  # annotations that mean something to its author alone
        return
    for field in dataclasses.fields(source):
        value, kind = getattr(source, field.name), hints[field.name]
        if isinstance(value, (int, float)):
            fitting = [one for one in kinds_of(kind) if typing.get_origin(one) is Annotated]
            if fitting:
                _check_range(value, fitting, kind, f"{where}.{field.name}")
        else:
            _check_source(value, f"{where}.{field.name}")


def _check_range(value: Any, fitting: collections.abc.Sequence[Any], kind: Any, where: str) -> None:
    if not any(in_range(value, one) for one in fitting):
        expected = f" {range_words(kind)}".removesuffix(" any")
        kind_there = "int32" if isinstance(value, int) else "float32"
        expected += "" if held(value) else f" that {kind_there} holds"
        raise UserError(f"{where} = {value}: expected a number{expected}")


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config, as people read of it."""

    path: str  # "optim.lr"; N stands for the number of an item, as in "rewards.N.weight"
    of: str  # the class that has it: of "grpo.loss.epsilon" there is one for every loss
    type: str  # "int or none"
    default: Any  # MISSING where it must be set
    range: str  # "at least 1"; "any"; "" for what is no number
    doc: str  # one line


def describe(kind: type, path: str = "") -> list[Field]:
    """Every field of a dataclass `kind` in its order, those of the parts that it may hold after
    it. A part that is always there is no field of its own."""
    hints, docs = typing.get_type_hints(kind, include_extras=True), field_docs(kind)
    found = []
    for field in dataclasses.fields(kind):
        hint, where = hints[field.name], f"{path}{field.name}"
        if not dataclasses.is_dataclass(hint):
            default = MISSING if field.default is dataclasses.MISSING else field.default
            told = type_name(hint), default, range_words(hint), docs.get(field.name, "")
            found.append(Field(where, kind.__name__, *told))
        for one in kinds_of(hint):
            items = typing.get_origin(one) is tuple
            for part in typing.get_args(one)[:1] if items else (one,):
                if isinstance(part, type) and dataclasses.is_dataclass(part):
                    found += describe(part, f"{where}.N." if items else f"{where}.")
    return found


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass, as one line; of inherited ones too."""
    found = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for node, after in itertools.pairwise(tree.body):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[node.target.id] = " ".join(text.value.split())
    return found


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
        # A part of a config is known by its place; a source says what it is.
        known = type(value).__module__.startswith("jaxvl.config.")
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


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The kinds that an annotation allows."""
    return typing.get_args(kind) if is_union(kind) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_union(kind):
        return any(_fits(value, arg) for arg in args)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin is Literal:
        return any(isinstance(value, type(arg)) and value == arg for arg in args)
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
    if not is_union(kind):
        return {}
    kinds = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    if not all(isinstance(k, type) and _has_defaults(k) for k in kinds):
        return {}
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", k.__name__).lower(): k for k in kinds}


def _has_defaults(kind: type) -> bool:
    """Whether it is a dataclass of which every field has a default."""
    missing = dataclasses.MISSING
    return dataclasses.is_dataclass(kind) and all(
        field.default is not missing or field.default_factory is not missing
        for field in dataclasses.fields(kind)
    )


def word_of(choice: Any) -> str:
    """One of a field's choices as it is written on the command line."""
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def type_name(kind: Any) -> str:
    """An annotation for people: "int or none", "one of constant, linear", "a tuple of int"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_union(kind):
        return " or ".join(type_name(arg) for arg in args)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(word_of(arg) for arg in args)
    if origin is tuple:
        return f"a tuple of {type_name(args[0])}"
    if kind is bool:
        return "true or false"
    if kind is Source:
        return "a source (an object with load())"
    if kind is type(None):
        return "none"
    return "a function" if origin is not None else getattr(kind, "__name__", str(kind))
