# SPDX-License-Identifier: Apache-2.0
"""Configs on the command line: shown whole, begun, made of another trainer's."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jaxvl.errors import UserError

CONFIG = typer.Argument(metavar="CONFIG", help="A Python file with config(), or a YAML file.")
_MODEL = "Qwen/Qwen2-VL-2B-Instruct"
OVERRIDES = typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")


def folder() -> Path:
    """Where the configs are that come with jaxvl: in the checkout, or where pip has put them."""
    from jaxvl.config.load import shipped

    found = next((at for at in shipped() if (at / "quickstart.py").is_file()), None)
    if found is None:
        places = " nor ".join(map(str, shipped()))
        raise UserError(f"the configs that come with jaxvl are neither in {places}")
    return found


def helped(kind: str) -> type[TyperCommand]:
    """A command whose help also lists every field of the config `kind` of `jaxvl.config`."""

    class Helped(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            for line in _fields(kind):
                typer.echo(line)

    return Helped


def _fields(kind: str) -> Iterator[str]:
    """Every field by group: its default, type and range, and what it is for."""
    from jaxvl import config
    from jaxvl.config.fields import MISSING, describe

    group = ""
    for field in describe(getattr(config, kind)):
        if (head := field.path.partition(".")[0]) != group:
            group = head
            yield f"\n{group}"
        of = f" (of {field.of})" if field.path.startswith("grpo.loss.") else ""
        default = "must be set" if field.default is MISSING else shown(field.default)
        yield f"  {field.path}={default}{of}"
        yield f"      {field.type}{', ' if field.range else ''}{field.range}. {field.doc}"


def show(
    config_file: Annotated[str, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
) -> None:
    """Show the whole config by group: every field with its value, its range and what it is for.
    What differs from the default is marked with a star."""
    from jaxvl import config
    from jaxvl.config.fields import MISSING, describe

    cfg = config.load(config_file, overrides or [], config.Config, config.SFTConfig)
    group = ""
    for field in describe(type(cfg)):
        values = _at(cfg, field.path.split("."), field.of)
        for path, value in values:
            head = path.partition(".")[0]
            if head != group:
                group = head
                typer.echo(f"\n{group}")
            star = "*" if field.default is MISSING or value != field.default else " "
            told = f"{field.type}{', ' if field.range else ''}{field.range}"
            typer.echo(f"  {star} {path} = {shown(value)}\n        {told}. {field.doc}")


def _at(node: Any, keys: list[str], kind: str, path: str = "") -> list[tuple[str, Any]]:
    """The values at a path of `describe`, where N is any item: (path, value); none where a part is
    not there, or is another of those that may stand there."""
    key, *rest = keys
    prefix = f"{path}." if path else ""
    if key == "N":
        items = enumerate(node) if isinstance(node, tuple) else ()
        return [pair for n, item in items for pair in _at(item, rest, kind, f"{prefix}{n}")]
    if not hasattr(node, key) or (not rest and type(node).__name__ != kind):
        return []
    value = getattr(node, key)
    return _at(value, rest, kind, prefix + key) if rest else [(prefix + key, value)]


def shown(value: Any) -> str:
    """A field's value as the command line writes it; of what it cannot write, how many or what."""
    from jaxvl.config.overrides import function_name

    if isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        return f"{len(value)} of them"
    if dataclasses.is_dataclass(value):
        return repr(value)
    if callable(value):
        return function_name(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def convert_config(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Arguments as YAML, EasyR1's, or trainer_state.json."
        ),
    ] = None,
    from_args: Annotated[
        str, typer.Option(help="The arguments of a command, or the whole command.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The config file to write.")] = Path("converted.py"),
    devices: Annotated[
        int, typer.Option(help="That share a batch.", min=0, show_default="as the arguments say")
    ] = 0,
    rows: Annotated[
        int, typer.Option(help="Of the dataset, to turn epochs into steps.", min=0)
    ] = 0,
) -> None:
    """Make a config of a TRL script's arguments, of VLM-R1's or of EasyR1's YAML, and say line by
    line what became of each."""
    from jaxvl.migrate import convert

    _new(out)
    found = convert(file, from_args, devices, rows)
    for line in found.report():
        typer.echo(line)
    _write(out, found.text())
    typer.echo(f"\nwritten: {out}; look at it, then: jaxvl grpo {out}")


def init(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="The file to write.")] = Path(
        "run.py"
    ),
    data: Annotated[str | None, typer.Option(help="File, folder or hub dataset.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint or hub id.", show_default=_MODEL)
    ] = None,
    memory: Annotated[
        int | None, typer.Option(help="Of one device, in GB.", min=1, show_default="80")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="How many.", min=1, show_default="1")] = None,
) -> None:
    """Write a commented config for one's data and hardware; what is no option is asked."""
    _new(out)
    data = _asked("--data", data, "Data", None)
    model = _asked("--model", model, "Model", _MODEL)
    memory = _asked("--memory", memory, "GB of memory a device", 80)
    devices = _asked("--devices", devices, "Devices", 1)
    from jaxvl.cli.begin import begin

    written, told = begin(data, model, memory, devices)
    _write(out, written)
    for line in told:
        typer.echo(line)
    typer.echo(f"written: {out}; next: jaxvl doctor {out}, then jaxvl grpo {out}")


def _asked(option: str, given: Any, question: str, default: Any) -> Any:
    """What is given by the option, else what is answered; a number where the default is one."""
    if given is not None:
        return given
    try:
        return typer.prompt(question, default=default)
    except typer.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        raise UserError(f"init: {option} is not given, and there is nobody to ask") from None


def _new(out: Path) -> None:
    if out.suffix != ".py":
        raise UserError(f"{out}: a config is a Python file; give it a name that ends in .py")
    if out.exists():
        raise UserError(f"{out} is there already; choose another name")


def _write(out: Path, text: str) -> None:
    try:
        if not out.absolute().parent.is_dir():
            print(f"making {out.parent}", file=sys.stderr)
            out.parent.mkdir(parents=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error})") from None
