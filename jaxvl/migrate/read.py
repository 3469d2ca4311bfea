# SPDX-License-Identifier: Apache-2.0
"""From a file or a command line of another trainer to the text of a config file of jaxvl."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxvl.config import validate
from jaxvl.config.overrides import function_name
from jaxvl.config.schema import Config, Reward
from jaxvl.config.source import python
from jaxvl.data import strict_yaml
from jaxvl.errors import UserError
from jaxvl.migrate import easyr1, trl
from jaxvl.migrate.words import Given, Line, command_line, flat

_STATE = {
    "max_steps": "max_steps",
    "num_train_epochs": "num_train_epochs",
    "train_batch_size": "per_device_train_batch_size",
    "save_steps": "save_steps",
    "logging_steps": "logging_steps",
    "eval_steps": "eval_steps",
}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A config that says the same as another trainer's settings, what became of each of these, and
    those that are not known."""

    cfg: Config
    lines: tuple[Line, ...]
    unknown: dict[str, Any]
    of: str  # whose settings they are

    def report(self) -> list[str]:
        """What became of every setting, a line each."""
        told = [str(dataclasses.replace(line, becomes=self._value(line))) for line in self.lines]
        if self.unknown:
            told += ["", f"unknown to {self.of} as jaxvl reads it, and left out:"]
            told += [f"{name} = {value}" for name, value in self.unknown.items()]
        return told

    def _value(self, line: Line) -> str:
        """What a line becomes, with the value that the config has there."""
        value: Any = self.cfg
        for name in line.becomes.split("."):
            value = getattr(value, name, None)
        if value is None or not line.becomes or dataclasses.is_dataclass(value):
            return line.becomes
        return f"{line.becomes}={_word(value)}"

    def text(self) -> str:
        """The config file, with the report at its head."""
        head = f"Written by `jaxvl convert-config` from settings of {self.of}.\n\n"
        return python(self.cfg, head + "\n".join(f"    {line}".rstrip() for line in self.report()))


def _word(value: Any) -> Any:
    """A value as the command line writes it: functions, and parts that hold one, by its name."""
    if isinstance(value, tuple):
        return ",".join(str(_word(item)) for item in value) or "()"
    if isinstance(value, Reward):
        return function_name(value.fn)
    return function_name(value) if callable(value) else value


def convert(file: Path | None, args: str = "", devices: int = 0, rows: int = 0) -> Converted:
    """The settings in a YAML or JSON `file`, or in the words of a command, or both (then the words
    win), for so many devices (0: as they say) and a dataset of so many rows (0: not known)."""
    named, dotted = command_line(args)
    found = _read(file) if file else {}
    ours = {name for name in found if name in ("data", "algorithm", "worker", "trainer")}
    if len(ours) > 1 or (dotted and not named and not found):
        given, of = Given(flat(found) | dotted), "EasyR1"
        cfg = easyr1.config(given, devices, rows)
    else:
        if not (found or named):
            raise UserError("convert-config: expected a file, or --from-args with arguments")
        given, of = Given(_top(found) | named | dotted), "TRL"
        cfg = trl.config(given, devices, rows)
    validate.validate(cfg)
    given.tell_variables()
    return Converted(cfg, tuple(given.lines), given.unknown(), of)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"no file at {file}; expected arguments as YAML, or a trainer_state.json")
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else strict_yaml.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__}; expected names with values")
    return _of_state(found) if "log_history" in found else found


def _of_state(state: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a trainer_state.json tells of; the learning rate is its highest."""
    found = {ours: state[name] for name, ours in _STATE.items() if state.get(name) is not None}
    history = [line for line in state["log_history"] or [] if isinstance(line, dict)]
    rates = [line["learning_rate"] for line in history if "learning_rate" in line]
    return found | ({"learning_rate": max(rates)} if rates else {})


def _top(found: dict[str, Any]) -> dict[str, Any]:
    """Arguments at the top of a YAML file; numbers that YAML takes for text (1e-5) are numbers."""
    return {
        str(name).replace("-", "_"): next(iter(flat(value).values()))
        if not isinstance(value, (dict, list))
        else value
        for name, value in found.items()
    }
