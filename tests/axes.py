# SPDX-License-Identifier: Apache-2.0
"""Annotations of axes as assertions: of functions (tests/conftest.py), and of pytrees."""

import dataclasses
import typing

from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from jaxtyping import jaxtyped

# A whole number is a float where one is asked for, as to every type checker.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def misfits(tree) -> list[str]:
    """Fields of a dataclass, and of dataclasses in it, that are not what their annotations say. An
    axis of one letter has one size in all of them."""
    wrong = []

    def look(node, path):
        hints = typing.get_type_hints(type(node))
        for field in dataclasses.fields(node):
            value, name = getattr(node, field.name), f"{path}{field.name}"
            if dataclasses.is_dataclass(value):
                look(value, f"{name}.")
            elif not is_bearable(value, hints[field.name]):
                wrong.append(name)

    with jaxtyped("context"):
        look(tree, "")
    return wrong
