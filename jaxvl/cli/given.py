# SPDX-License-Identifier: Apache-2.0
"""Options of `jaxvl curate` of the form NAME=VALUE, read. UserError names the option and what was
found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jaxvl.errors import UserError

if TYPE_CHECKING:
    from jaxvl.curate.metadata import Chosen
    from jaxvl.curate.split import SplitSizes


def chosen(
    take: list[str] | None,
    kind: list[str] | None,
    captions: list[str] | None,
    all_questions: bool,
    seed: int,
) -> Chosen:
    """What the first step takes of its sources, by --take, --kind and --captions."""
    from jaxvl.curate.metadata import Chosen
    from jaxvl.curate.sources import PAPER
    from jaxvl.data.tasks.vlaa import TYPES

    kinds = pairs(kind, "--kind")
    for name, named in kinds.items():
        if named not in TYPES:
            raise UserError(f"--kind {name}={named}: expected one of {', '.join(TYPES)}")
    return Chosen(
        first=_numbers(take, "--take", {name: facts.taken for name, facts in PAPER.items()}),
        kinds=kinds,
        captions=pairs(captions, "--captions"),
        all_questions=all_questions,
        seed=seed,
    )


def sizes(sft: list[str] | None, rl: list[str] | None, aha: int, seed: int) -> SplitSizes:
    """The sizes of the sets, by --sft and --rl."""
    from jaxvl.curate.sources import PAPER
    from jaxvl.curate.split import SplitSizes

    return SplitSizes(
        sft=_numbers(sft, "--sft", {name: facts.sft for name, facts in PAPER.items()}),
        rl=_numbers(rl, "--rl", {name: facts.rl for name, facts in PAPER.items()}),
        aha=aha,
        seed=seed,
    )


def pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name or not equals or not value or name in found:
            again = " a second time" if name in found else ""
            raise UserError(f"{option} {text}{again}: expected NAME=VALUE, each name once")
        found[name] = value
    return found


def _numbers(given: Sequence[str] | None, option: str, paper: dict[str, int]) -> dict[str, int]:
    numbers = dict(paper) if "paper" in (given or []) else {}
    named = pairs([text for text in given or [] if text != "paper"], option)
    return numbers | {name: number(text, f"{option} {name}") for name, text in named.items()}


def number(text: str, option: str) -> int:
    """A whole number of 0 or more."""
    if not text.strip().isdecimal():
        raise UserError(f"{option}: found {text!r}, expected a whole number")
    return int(text)


def failed(text: str) -> Literal["stop", "drop"]:
    """What becomes of a row that a teacher never answers, by --failed."""
    if text not in ("stop", "drop"):
        raise UserError(f"--failed {text}: expected stop or drop")
    return "stop" if text == "stop" else "drop"
