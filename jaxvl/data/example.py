# SPDX-License-Identifier: Apache-2.0
"""One question about pictures: what every dataset is turned into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Example:
    """A question, its pictures and its answer.

    `images` holds PIL images or paths, in the order they are shown. `choices` is empty for an open
    question. `columns` carries anything else a dataset has; reward functions receive it by name.
    """

    id: str
    question: str
    answer: str
    images: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    task: str = ""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Source(Protocol):
    """A dataset as a config names it: a frozen dataclass whose `load` gives random access."""

    def load(self) -> Sequence[Example]: ...
