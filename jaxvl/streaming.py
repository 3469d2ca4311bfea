# SPDX-License-Identifier: Apache-2.0
"""An answer while it is made: the sampler in steps, and the part of its text that will stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.batch import Prompt

if TYPE_CHECKING:
    from jaxvl.vlm import VLM

TOKENS = 8  # between two looks; at each the compiled loop ends and begins again


def texts(
    vlm: VLM,
    steps: tuple[Callable, Callable],
    prompt: Prompt,
    key: jax.Array,
    max_new_tokens: int,
) -> Iterator[str]:
    """The text of the first row's completion every few tokens, at last all of it.

    `steps` are the sampler's, see `jaxvl.rl.sampler.make_steps`.
    """
    start, go_on = steps
    with jax.set_mesh(vlm.mesh):
        past, state = start(vlm.params, prompt, key)
    while True:
        length = int(np.asarray(state.length)[0, 0])
        yield vlm.processor.decode(np.asarray(state.tokens)[0, 0, :length])
        if np.asarray(state.done)[0, 0] or length == max_new_tokens:
            return
        until = jnp.int32(min(length + TOKENS, max_new_tokens))
        with jax.set_mesh(vlm.mesh):  # not around the yield: the caller's own work goes on there
            state = go_on(vlm.params, past, state, until)


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
