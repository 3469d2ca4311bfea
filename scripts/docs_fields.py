# SPDX-License-Identifier: Apache-2.0
"""The page "Fields of a config" of the docs site, made while mkdocs builds the site, from what the
fields are checked by (`jaxvl.config.fields`).

    python scripts/docs_fields.py     prints it
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxvl import config
from jaxvl.cli.configs import shown
from jaxvl.config.fields import MISSING, Field, describe

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGE = "reference/fields.md"
HEAD = """# Fields of a config

Every field, as `jaxvl grpo --help` and `jaxvl sft --help` list them and as a run checks them. A
field is set in a config file, or as `field=value` behind it on the command line; N stands for the
number of an item, as in `rewards.0.weight=0.5`. A number that float32 does not hold is refused
everywhere. Classes and functions are in [Config](config.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """What mkdocs calls when it has listed the docs."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Of a run of GRPO all fields, of a supervised one those that are others."""
    grpo, sft = describe(config.Config), describe(config.SFTConfig)
    common = set(map(_line, grpo))
    parts = [HEAD, "\n## jaxvl grpo\n", *_groups(grpo, config.Config)]
    others = [field for field in sft if _line(field) not in common]
    told = "The fields of `jaxvl grpo` but those of `grpo`, and these:"
    return "\n".join([*parts, f"\n## jaxvl sft\n\n{told}\n", *_groups(others, config.SFTConfig)])


def _groups(fields: list[Field], kind: type) -> Iterator[str]:
    """A heading and a table for each part of a config. What several kinds of a part have alike
    (`grpo.loss`) is one line."""
    of: dict[str, list[str]] = {}
    for field in fields:
        of.setdefault(_line(field), []).append(field.of)
    group = ""
    for line, classes in of.items():
        path = line.split("`")[1]
        if (head := path.partition(".")[0]) != group:
            group = head
            yield f"\n### {head}\n"
            yield from _about(kind, head)
            yield "| field | default | type and range | what it is |\n| --- | --- | --- | --- |"
        several = path.startswith("grpo.loss.")
        yield line + (f" Of {', '.join(classes)}. |" if several else " |")


def _about(kind: type, group: str) -> Iterator[str]:
    """What the class of a part says of itself, in its first paragraph."""
    part = getattr(config, inspect.get_annotations(kind)[group].split(" | ")[0], None)
    if text := part and inspect.getdoc(part):
        yield " ".join(text.split("\n\n")[0].split()) + "\n"


def _line(field: Field) -> str:
    """A field as a row of its table, but for its end."""
    value = "" if field.default is MISSING else shown(field.default) or '""'
    default = f"`{value}`" if value else "must be set"
    told = f"{field.type}{', ' if field.range else ''}{field.range}"
    cells = (f"`{field.path}`", default, told, field.doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells)


if __name__ == "__main__":
    print(page(), end="")
