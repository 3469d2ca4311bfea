# SPDX-License-Identifier: Apache-2.0
"""A config of plain values, from YAML: what the command line can set, below one another.

Functions are those of jaxvl by name (rewards, templates); `data.source` takes a `type`, one of
`SOURCES` (records, where none is said). Nothing in the file is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvl.config.overrides import blank, set_field
from jaxvl.config.schema import Config, Data, Model, Run
from jaxvl.data.prepared import Prepared
from jaxvl.data.scenes import Scenes
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import chat_question
from jaxvl.errors import UserError

SOURCES = {"records": Records, "scenes": Scenes, "prepared": Prepared}


def config(path: Path) -> Config:
    """The config in a YAML file. What it does not say is the default, and the template chat."""
    from jaxvl.data import strict_yaml  # loads yaml, which Python files do without

    try:
        found = strict_yaml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: expected fields of a config with values, as model: {{path: ..}}")
    if "sft" in found:
        raise UserError(f"{path}: the target of a supervised run is a function; write Python")
    data = found.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    kind = source.pop("type", "records") if isinstance(source, dict) else "records"
    if not isinstance(kind, str) or kind not in SOURCES:
        raise UserError(
            f"{path}: data.source.type = {kind!r:.40}: expected one of {', '.join(SOURCES)}"
        )
    cfg = Config(
        model=blank(Model),
        data=Data(blank(SOURCES[kind]), chat_question),
        rewards=(),
        run=blank(Run),
    )
    for override in _overrides(found, ""):
        try:
            cfg = set_field(cfg, override)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return cfg


def _overrides(value: Any, name: str) -> Iterator[str]:
    """`a.b=c` for every plain value; a part's `type` chooses it, before its fields are set."""
    if isinstance(value, dict):
        if "type" in value:
            yield f"{name}={value['type']}"
        for key, item in value.items():
            if key != "type":
                yield from _overrides(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _overrides(item, f"{name}.{number}")
    elif isinstance(value, list):
        yield f"{name}={json.dumps(value)}"
    else:
        yield f"{name}={_word(value)}"


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
