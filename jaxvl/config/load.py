# SPDX-License-Identifier: Apache-2.0
"""A config from a Python file and `a.b=c` of the command line."""

from __future__ import annotations

import functools
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from jaxvl.config.overrides import set_field
from jaxvl.config.schema import Config, SFTConfig
from jaxvl.config.validate import notes, validate
from jaxvl.errors import UserError

_Kind = TypeVar("_Kind", Config, SFTConfig)


@overload
def load(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...
@overload
def load(path: str | Path, overrides: Sequence[str], kind: type[_Kind], /) -> _Kind: ...
@overload
def load(
    path: str | Path, overrides: Sequence[str] = (), *kinds: type[Config] | type[SFTConfig]
) -> Config | SFTConfig: ...
def load(path: str | Path, overrides: Sequence[str] = (), *kinds: type) -> Config | SFTConfig:
    """The config in the Python or YAML file at `path`, with `a.b=c` overrides applied, validated.

    `kinds` are the classes it may be of (default: Config).
    """
    kinds = kinds or (Config,)
    path = Path(path)
    try:
        there = path.is_file()
    except OSError as error:  # a name that is too long
        raise UserError(f"no config file at {str(path)[:80]}..: {error.strerror}") from None
    if not there:
        raise UserError(f"no config file at {path}; {_instead(path)}")
    if path.suffix in (".yaml", ".yml"):
        from jaxvl.config import plain  # its sources load numpy

        cfg = plain.config(path)
    else:
        cfg = _of_python(path)
    if not isinstance(cfg, kinds):
        found = f"config() in {path} returned a {type(cfg).__name__}"
        raise UserError(f"{found}, expected a {' or a '.join(kind.__name__ for kind in kinds)}")
    for override in overrides:
        cfg = set_field(cfg, override)
    validate(cfg)
    for note in notes(cfg):
        print(f"note: {note}", file=sys.stderr, flush=True)
    return cfg


def shipped() -> list[Path]:
    """Where the configs that come with jaxvl may be: in the checkout, or where pip has put them."""
    checkout = Path(__file__).parents[2] / "configs"
    return [checkout, Path(sysconfig.get_path("data")) / "share/jaxvl/configs"]


def _instead(path: Path) -> str:
    """What to name where there is no `path`: `configs/..`, as the docs have it, is in the checkout,
    or where pip has put it."""
    below = path.parts[1:] if path.parts[:1] == ("configs",) else (path.name,)
    there = [folder.joinpath(*below) for folder in shipped() if folder.joinpath(*below).is_file()]
    if there:
        return f"the one that comes with jaxvl is {there[0]}"
    return "give the path of a Python file, or of YAML"


def _told_where(path: Path, act: Callable[[], Any]) -> Any:
    """`act()`, a part of the user's file: what it raises is told with the line there."""
    try:
        return act()
    except UserError:
        raise
    except SyntaxError as error:
        if Path(error.filename or "").name != path.name:  # of a file that it imports
            raise UserError(f"{path}: {error.filename}, line {error.lineno}: {error.msg}") from None
        text = f": `{error.text.strip():.80}`" if error.text else ""
        raise UserError(f"{path}, line {error.lineno}: {error.msg}{text}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).name == path.name]
        where = f"{path}, line {own[-1].lineno}" if own else f"{path}"
        text = f" (`{own[-1].line:.80}`)" if own and own[-1].line else ""
        said = traceback.format_exception_only(error)[-1].strip()
        name, _, rest = said.partition(":")
        said = ":".join(filter(None, (name.rpartition(".")[2], rest)))
        raise UserError(f"{where}: {said}{text}") from error


def _of_python(path: Path) -> Any:
    """What config() of a Python file returns."""
    # Registered in sys.modules because dataclasses resolve their annotations through it.
    name = f"jaxvl_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config is a .py that defines config()")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _told_where(path, functools.partial(spec.loader.exec_module, module))
    if not callable(getattr(module, "config", None)):
        raise UserError(f"{path} defines no function config(); it should return a jaxvl Config")
    return _told_where(path, module.config)
