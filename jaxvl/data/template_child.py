# SPDX-License-Identifier: Apache-2.0
"""The program of a child process: renders sample messages with a chat template, under limits.

Reads {"template", "samples", "memory", "seconds", "longest"} as JSON and prints what was too much,
nothing where all samples ended, be it with an error of the template's own. It imports no jaxvl, so
that it is there in a tenth of a second.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOO_MUCH = (MemoryError, OverflowError, RecursionError)


class Generation(Extension):
    """The tag that marks what the assistant said: its body as it is."""

    tags = {"generation"}  # noqa: RUF012 (of an instance, says the base class)

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def refuse(message: str) -> None:
    """`raise_exception` of transformers' chat templates."""
    raise ValueError(message)


def environment() -> ImmutableSandboxedEnvironment:
    """With the names that transformers gives to chat templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False)
    made.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "1 January 2025"}
    return made


def examine(request: dict[str, Any]) -> str:
    """What was too much, or ""."""
    for messages in request["samples"]:
        try:
            template = environment().from_string(request["template"])
            size = 0
            for piece in template.generate(messages=messages, add_generation_prompt=True):
                size += len(piece)
                if size > request["longest"]:
                    return f"it makes more than {request['longest']} characters of a short question"
        except TOO_MUCH as error:
            return f"{type(error).__name__}: {error}".removesuffix(": ")
        except Exception:  # a template's own refusal of messages of another form
            continue
    return ""


if __name__ == "__main__":
    request = json.load(sys.stdin)
    for limit, most in (
        (resource.RLIMIT_AS, request["memory"]),
        (resource.RLIMIT_CPU, request["seconds"]),
    ):
        resource.setrlimit(limit, (most, most))
    print(examine(request))
