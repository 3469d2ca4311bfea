# SPDX-License-Identifier: Apache-2.0
"""Sources for controls: what is left of a result when the data says nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge

from jaxvl.data.example import Example, Source
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class ShuffledImages:
    """The examples of `source`, each with the images of another one, drawn by `seed`.

    Questions, answers and columns stay. No example keeps its images; all have to have the same
    number of them. A model that learns or answers as well with it does not look at images.
    """

    source: Source
    seed: Annotated[int, Ge(0)] = 0

    def load(self) -> Sequence[Example]:
        base = self.source.load()
        if len(base) < 2:
            raise UserError(f"shuffled images: {len(base)} example, expected two or more")
        return _Shuffled(base, self.seed)


class _Shuffled(Sequence[Example]):
    """Examples of `base`, each with the images of the next one in a random ring of all."""

    def __init__(self, base: Sequence[Example], seed: int):
        self.base, self.dropped = base, tuple(getattr(base, "dropped", ()))
        ring = np.random.default_rng(seed).permutation(len(base))
        self.other = np.empty(len(base), int)
        self.other[ring] = np.roll(ring, -1)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        example, other = self.base[i], self.base[int(self.other[i])]
        if len(example.images) != len(other.images):
            raise UserError(
                f"shuffled images: example {example.id} has {len(example.images)} images and "
                f"{other.id} has {len(other.images)}; expected the same number in all"
            )
        return dataclasses.replace(example, images=other.images)
