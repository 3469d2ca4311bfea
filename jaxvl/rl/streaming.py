# SPDX-License-Identifier: Apache-2.0
"""An answer while it is made: the sampler in steps, and the part of its text that will stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import check_drawn
from jaxvl.rl.sampler import Sampler

TOKENS = 8  # between two looks; at each the compiled loop ends and begins again


def rollouts(
    sampler: Sampler, params: dict[str, Any], prompt: Prompt, key: jax.Array, mesh: Mesh
) -> Iterator[Rollout]:
    """What there is of a rollout, on the host, every few tokens, at last all of it."""
    states = sampler.states(params, prompt, key, every=TOKENS)
    while True:
        with jax.set_mesh(mesh):  # not around the yield: the caller's own work goes on there
            state = next(states, None)
            if state is None:
                return
            rollout = jax.tree.map(np.asarray, sampler.read(prompt, state))
        yield rollout


def texts(made: Iterable[Rollout], decode: Callable[[Any], str]) -> Iterator[str]:
    """The text of the first row's first completion in each of `made`."""
    for rollout in made:
        check_drawn(rollout, ["asked"])
        yield decode(rollout.tokens[0, 0][rollout.mask[0, 0]])


@dataclasses.dataclass
class Pieces:
    """How much of a text that grows has been handed on."""

    shown: int = 0  # characters

    def next(self, text: str, whole: bool = False) -> str:
        """What `text`, the decoding of ever more tokens, adds to what was handed on.

        A character whose bytes are not all there yet is decoded as U+FFFD: unless the text is
        `whole`, it waits for them.
        """
        sure = text if whole else text.rstrip("\ufffd")
        piece = sure[self.shown :]
        self.shown += len(piece)
        return piece


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What each text adds to those before it, as `Pieces` has it; none is empty."""
    taken, text = Pieces(), ""
    for text in texts:
        if piece := taken.next(text):
            yield piece
    if rest := taken.next(text, whole=True):
        yield rest
