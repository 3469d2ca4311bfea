# SPDX-License-Identifier: Apache-2.0
"""An answer while it is made: the sampler in steps, and the part of its text that will stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxvl.batch import Prompt
from jaxvl.rl.sampler import Sampler

if TYPE_CHECKING:
    from jaxvl.vlm import VLM

TOKENS = 8  # between two looks; at each the compiled loop ends and begins again


def texts(vlm: VLM, sampler: Sampler, prompt: Prompt, key: jax.Array) -> Iterator[str]:
    """The text of the first row's first completion every few tokens, at last all of it."""
    states = sampler.states(vlm.params, prompt, key, every=TOKENS)
    while True:
        with jax.set_mesh(vlm.mesh):  # not around the yield: the caller's own work goes on there
            state = next(states, None)
            if state is None:
                return
            rollout = sampler.read(prompt, state)
        tokens, mask = np.asarray(rollout.tokens)[0, 0], np.asarray(rollout.mask)[0, 0]
        yield vlm.processor.decode(tokens[mask])


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What each text adds to those before it; `texts` are decodings of ever more tokens.

    A character whose bytes are not all there yet is decoded as U+FFFD: it waits for them.
    """
    shown = text = ""
    for text in texts:
        sure = text.rstrip("\ufffd")
        if len(sure) > len(shown):
            yield sure[len(shown) :]
            shown = sure
    if len(text) > len(shown):
        yield text[len(shown) :]
