# SPDX-License-Identifier: Apache-2.0
"""Fields of a config set by a dotted path from text, as the command line does.

Text is parsed by the annotation of the field it is for and never evaluated. A field that holds one
of several dataclasses takes the name of one, as its class or in lower case ("DrGrpo", "dr_grpo").
Setting a field of a part that is none makes the part, and setting the item after the last of a
tuple adds one. Below a function its keywords are set; a function itself is chosen by name, where
its field says of which module ("named"). No name is ever imported from where the text says.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jaxvl.config.fields import MISSING, choices, kinds_of, type_name, word_of
from jaxvl.config.ranges import is_union
from jaxvl.data.example import Source
from jaxvl.errors import UserError

# What reward functions are given beside the columns, under TRL's names.
SERVICES = ("trainer_state", "log_metric", "log_extra")


def set_field(cfg: Any, override: str) -> Any:
    """A copy of the dataclass `cfg` with one field replaced; `override` is "a.b=value"."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"`{override}` is not an override; write field=value, as grpo.group=4")
    return _Override(path, text, cfg).put(cfg, type(cfg), path.split("."))


@dataclasses.dataclass(frozen=True)
class _Override:
    """`text` for the field at `path` of `root`."""

    path: str
    text: str
    root: Any

    def put(self, value: Any, kind: Any, keys: list[str], named: str = "") -> Any:
        """What takes the place of `value`, a `kind` (an annotation), once the field at `keys` below
        it is set."""
        if not keys:
            whole = dataclasses.is_dataclass(value) and not choices(kind) and not named
            if whole and not (_optional(kind) and self.text.strip().lower() == "none"):
                name = type(value).__name__
                raise UserError(f"{self.path} is a {name}; set a field of it, as {self.path}.x=1")
            return _parse(self.text, kind, self.path, named)
        if value is None or value is MISSING:
            value = self._made(kind)
        if isinstance(value, tuple):
            return self._put_item(value, kind, *keys)
        if dataclasses.is_dataclass(value):
            return self._put_field(value, *keys)
        if callable(value):
            return self._put_keyword(value, *keys)
        raise UserError(f"{self.path}: no field `{keys[0]}` in a {type(value).__name__}")

    def _made(self, kind: Any) -> Any:
        """A part of the config that was none, with its defaults."""
        if kind is Source and hasattr(self.root, "data"):
            return self.root.data.source
        if _item(kind) is not None:
            return ()
        parts: list[Any] = [arg for arg in kinds_of(kind) if dataclasses.is_dataclass(arg)]
        if len(parts) == 1:
            return blank(parts[0])
        raise UserError(
            f"{self.path}: there is nothing yet of which a field could be set, and it "
            f"takes {type_name(kind)}"
        )

    def _put_field(self, node: Any, key: str, *rest: str) -> Any:
        found = {field.name: field for field in dataclasses.fields(node) if field.init}
        if key not in found:
            in_source = self.path.rpartition(f".{key}")[0].endswith("source")
            hint = _suggest(key, list(found), None if in_source else self.root)
            raise UserError(f"{self.path}: no field `{key}` in {type(node).__name__}{hint}")
        kind = typing.get_type_hints(type(node))[key]
        old, named = getattr(node, key), found[key].metadata.get("named", "")
        changes = {key: self.put(old, kind, list(rest), named)}
        if named and not rest and getattr(node, "name", None) == function_name(old):
            changes["name"] = ""  # which was that of the function
        return dataclasses.replace(node, **changes)

    def _put_item(self, items: tuple[Any, ...], kind: Any, key: str, *rest: str) -> Any:
        item = _item(kind)
        extends = dataclasses.is_dataclass(item)
        if not key.isdecimal() or int(key) >= len(items) + extends:
            last = len(items) - 1 + extends
            more = " (which adds one)" if extends else ""
            raise UserError(
                f"{self.path}: no item `{key}`; expected a number from 0 to {last}{more}"
            )
        number = int(key)
        if not rest and extends and number < len(items):
            raise UserError(f"{self.path}: an item cannot be set here; set a field of it")
        old = items[number] if number < len(items) else blank(item)
        new = self.put(old, item, list(rest)) if rest else _parse(self.text, item, self.path)
        return (*items[:number], new, *items[number + 1 :])

    def _put_keyword(self, fn: Callable[..., Any], key: str, *rest: str) -> Any:
        bound = fn if isinstance(fn, functools.partial) else functools.partial(fn)
        known = keywords(bound.func)
        if key not in known:
            name = function_name(fn)
            near = _suggest(key, list(known), None) if known else "; it has none"
            raise UserError(f"{self.path}: no setting `{key}` of {name}{near}")
        kind, default = known[key]
        value = self.put(bound.keywords.get(key, default), kind, list(rest))
        return functools.partial(bound, **{key: value})


def function_name(fn: Any) -> str:
    """The name of a function, also of one whose keywords are bound, or of an object's class."""
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__name__", type(fn).__name__)


def keywords(fn: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a function, (annotation, default or MISSING) by name: what can only be given
    by keyword, but for the services that rewards are given."""
    try:
        hints, parameters = typing.get_type_hints(fn), inspect.signature(fn).parameters
    except (TypeError, ValueError, NameError):  # of C, or annotated with what is not there
        return {}
    found = {}
    for name, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in SERVICES:
            default = MISSING if parameter.default is parameter.empty else parameter.default
            guess = str if default in (None, MISSING) else type(default)
            found[name] = (hints.get(name, guess), default)
    return found


def blank(kind: type) -> Any:
    """A `kind` with its defaults, MISSING where it has none."""
    without = {f.name: MISSING for f in dataclasses.fields(kind) if f.init and _required(f)}
    return kind(**without)


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _suggest(key: str, names: list[str], root: Any) -> str:
    """A hint from the names beside a wrong one, else from the whole config `root` (None: the field
    is a source's, of which each has its own)."""
    near = difflib.get_close_matches(key, names, n=1)
    if root is None and not near:
        fields = f"; its fields are {', '.join(names)}"
        return f"{fields}; a source of another kind is set in the config file"
    near = near or [path for path in _paths(root) if path.endswith(f".{key}")]
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; its fields are {', '.join(names)}"


def _paths(node: Any, prefix: str = "") -> list[str]:
    """Dotted paths of the fields below `node` that are no dataclasses."""
    if not dataclasses.is_dataclass(node):
        return [prefix[:-1]]
    fields = [field.name for field in dataclasses.fields(node)]
    return [path for name in fields for path in _paths(getattr(node, name), f"{prefix}{name}.")]


def _optional(kind: Any) -> bool:
    return type(None) in kinds_of(kind)


def _item(kind: Any) -> Any:
    """What the items of a tuple are, None where the annotation does not say or they differ."""
    for arg in kinds_of(kind):
        args = typing.get_args(arg)
        if typing.get_origin(arg) is tuple and len(args) == 2 and args[1] is Ellipsis:
            return args[0]
    return None


def _items(word: str) -> list[str]:
    """The items of a list: between commas, or as JSON has them, whose texts may have commas."""
    try:
        found = json.loads(word)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        return [item if isinstance(item, str) else json.dumps(item) for item in found]
    return [item.strip() for item in word.strip("()[]").split(",") if item.strip()]


def _parse(text: str, kind: Any, path: str, named: str = "") -> Any:
    """`text` as a `kind` (an annotation)."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    word = text.strip()
    if named:
        return _named(word, named, path)
    if _optional(kind) and word.lower() == "none":
        return None
    if is_union(kind):
        return _parse_one_of(text, kind, path)
    if origin is tuple:
        if (word[:1] in ("(", "["), word[-1:] in (")", "]")) in ((True, False), (False, True)):
            raise UserError(f"{path}: found `{text:.80}`, a bracket without the other")
        items = _items(word)
        kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
        if len(items) != len(kinds):
            raise UserError(f"{path}: expected {len(kinds)} items, found `{text:.80}`")
        return tuple(_parse(*pair, path) for pair in zip(items, kinds, strict=True))
    try:
        if kind is bool:
            return {"true": True, "false": False}[word.lower()]
        if kind is int or kind is float:
            value = kind(word)
            if not math.isfinite(value):
                raise ValueError
            return value
        if origin is Literal:
            word = word.lower() if word.lower() in ("true", "false") else word
            return {word_of(arg): arg for arg in args}[word]
    except (ValueError, KeyError):
        raise UserError(f"{path}: expected {type_name(kind)}, found `{text:.80}`") from None
    if kind in (str, Path):
        return kind(text)
    return _parse_item(word, kind, path)


def _parse_one_of(text: str, kind: Any, path: str) -> Any:
    """`text` as the first of several kinds that it can be."""
    if parts := choices(kind):
        return _choose(text.strip(), parts, path)
    kinds = [arg for arg in kinds_of(kind) if arg is not type(None)]
    words = {
        word for arg in kinds if typing.get_origin(arg) is Literal for word in typing.get_args(arg)
    }
    if text.strip() in words:
        return text.strip()
    kinds = [arg for arg in kinds if typing.get_origin(arg) is not Literal]
    if len(kinds) == 1:
        return _parse(text, kinds[0], path)
    if not set(kinds) <= {int, float, bool, str, Path}:
        _refuse(path, kind)
    for one in sorted(kinds, key=(bool, int, float, Path, str).index):
        try:
            return _parse(text, one, path)
        except UserError:
            continue
    raise UserError(f"{path}: expected {type_name(kind)}, found `{text:.80}`")


def _parse_item(word: str, kind: Any, path: str) -> Any:
    """A dataclass from a word, where that is all it needs: a benchmark or a reward by its name."""
    needed = [f for f in dataclasses.fields(kind) if _required(f)] if _is_class(kind) else []
    if len(needed) != 1:
        _refuse(path, kind)
    (field,) = needed
    hint, named = typing.get_type_hints(kind)[field.name], field.metadata.get("named", "")
    if hint is not str and not named:
        _refuse(path, kind)
    return kind(**{field.name: _parse(word, hint, path, named)})


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _named(word: str, module: str, path: str) -> Any:
    """The function of `module` with this name, among those that it lists as FUNCTIONS."""
    home = importlib.import_module(module)
    name = word.removeprefix(f"{module}.")
    if name not in home.FUNCTIONS:
        raise UserError(
            f"{path}: expected one of {', '.join(home.FUNCTIONS)}, found `{word:.80}`; a function "
            "of your own stands in the config file"
        )
    found = home.FUNCTIONS[name] if isinstance(home.FUNCTIONS, dict) else getattr(home, name)
    return found() if isinstance(found, type) else found


def _choose(word: str, parts: dict[str, type], path: str) -> Any:
    """A fresh one of `parts`, with its fields as they stand in its class."""
    plain = {name.replace("_", ""): kind for name, kind in parts.items()}
    kind = plain.get(word.lower().replace("_", ""))
    if kind is None:
        raise UserError(f"{path}: expected one of {', '.join(parts)}, found `{word:.80}`")
    return kind()


def _refuse(path: str, kind: Any) -> typing.NoReturn:
    what = f"{path} holds {type_name(kind)} and cannot be set"
    if any(_is_class(arg) for arg in kinds_of(kind)):
        raise UserError(f"{what} as a whole; set a field of it, as {path}.x=1")
    raise UserError(f"{what} on the command line; edit the config file")
