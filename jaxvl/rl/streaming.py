# SPDX-License-Identifier: Apache-2.0
"""An answer while it is made: the sampler in steps, and the part of its text that will stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.models.inputs import Prompt
from jaxvl.rl.completions import check_drawn
from jaxvl.rl.sampler import Sampler

TOKENS = 8  # between two looks; at each the compiled loop ends and begins again


def texts(
    sampler: Sampler,
    params: dict[str, Any],
    prompt: Prompt,
    key: jax.Array,
    mesh: Mesh,
    decode: Callable[[np.ndarray], str],
) -> Iterator[str]:
    """The text of the first row's first completion every few tokens, at last all of it."""
    states = sampler.states(params, prompt, key, every=TOKENS)
    while True:
        with jax.set_mesh(mesh):  # not around the yield: the caller's own work goes on there
            state = next(states, None)
            if state is None:
                return
            rollout = jax.tree.map(np.asarray, sampler.read(prompt, state))
        check_drawn(rollout, ["asked"])
        yield decode(rollout.tokens[0, 0][rollout.mask[0, 0]])


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
