# SPDX-License-Identifier: Apache-2.0
"""Tower and decoder joined, over rows of a prompt and its completions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, axis_size, check_divisible, platform
from jaxvl.errors import UserError
from jaxvl.models.arch import Arch, TextArch
from jaxvl.models.cache import KVCache
from jaxvl.models.inputs import Prompt
from jaxvl.models.layers import cast
from jaxvl.models.text import Decoder
from jaxvl.models.vision import VisionTower

# Tokens and patches of a device that prefill works on at a time: enough to keep it busy, and few
# enough for memory; of a CPU, for its cache.
TOKENS, CPU_TOKENS = 1 << 14, 1 << 10
# Rows of all B shards, or those of each: a slice of what every device holds is of the second.
_BY_SHARD, _TOGETHER = "(B r) ... -> B r ...", "B r ... -> (B r) ..."


class QwenVL(nnx.Module):
    """A vision tower, and a decoder whose input has the image embeddings in its slots."""

    def __init__(self, arch: Arch, *, rngs: nnx.Rngs):
        self.vision = VisionTower(arch.vision, rngs=rngs)
        self.text = Decoder(arch.text, rngs=rngs)

    def embed(self, prompt: Prompt, remat: str = "block") -> jax.Array:
        """Token vectors [R, T, D], with the images' embeddings in the slots they belong to."""
        return self._with_images(prompt, self.text.embed(prompt.tokens), remat)

    def _with_images(self, prompt: Prompt, x_RTD: jax.Array, remat: str) -> jax.Array:
        image_RMD = self.vision(prompt.vision, remat)
        slots_RT1 = jnp.maximum(prompt.slots, 0)[..., None]
        image_RTD = jnp.take_along_axis(image_RMD, slots_RT1, axis=1)
        return jnp.where(prompt.slots[..., None] >= 0, image_RTD, x_RTD)

    def prefill(
        self, prompt: Prompt, *, int8_cache: bool = False
    ) -> tuple[jax.Array, list[KVCache]]:
        """Hidden state of each prompt's last token [R, q, D], and the prompts' keys and values as
        decoding reads them: a cache a layer, k [B, r, K, H, S] and v [B, r, K, S, H]. With
        `int8_cache` they are rounded once all layers have attended.

        A row without suffixes has q = 1 prompt of S = T tokens; else S = T + q*F, as a row of
        completions has them, and what a token sees is `prompts_mask`'s.

        A few rows of every device at a time: of what is made on the way, all rows' never exists.
        """
        shards = axis_size("data") * axis_size("fsdp")

        def some(prompt: Prompt) -> tuple[jax.Array, list[KVCache]]:
            x_RSD, positions, suffixes = self._prompts(prompt)
            hidden_RSD, cache = self.text(
                x_RSD, positions, prompt_mask(prompt), suffixes, keep_cache=True
            )
            assert cache is not None, "it is kept"
            cache = cache.int8() if int8_cache else cache
            layers = range(self.text.arch.layers)
            by_layer = [
                jax.tree.map(lambda x, i=i: fold(x[i], _BY_SHARD, B=shards), cache) for i in layers
            ]
            return _last_of_prompts(prompt, hidden_RSD), by_layer

        rows = prompt.tokens.shape[0] // shards
        tokens = prompt.tokens.shape[1] + prompt.vision.segments.shape[1]
        if prompt.suffixes is not None:
            tokens += math.prod(prompt.suffixes.tokens.shape[1:])
        few = rows_at_a_time(rows, tokens, CPU_TOKENS if platform() == "cpu" else TOKENS)
        return some(prompt) if few == rows else _in_turn(some, prompt, shards, rows // few)

    def _prompts(self, prompt: Prompt) -> tuple[jax.Array, jax.Array, int]:
        """The decoder's input of whole prompts, [R, S, D] and [R, 3, S], and how many suffixes
        branch off."""
        suffixes = prompt.suffixes
        if suffixes is None:
            return self.embed(prompt), prompt.positions, 0
        x_RSD, positions = self._branched(prompt, suffixes.tokens, suffixes.positions, "block")
        return x_RSD, positions, suffixes.tokens.shape[1]

    def _branched(
        self, prompt: Prompt, own_RgC: jax.Array, own_positions_RgC: jax.Array, remat: str
    ) -> tuple[jax.Array, jax.Array]:
        """A row [ prompt | c_1 | .. | c_g ] of a prompt and texts that branch off it, as the
        decoder takes it: [R, S, D] and positions [R, 3, S]."""
        own_RS, at_RS = (fold(x, "R g C -> R (g C)") for x in (own_RgC, own_positions_RgC))
        # Looked up together: the gradient of a lookup is an array as large as the table.
        x_RSD = self.text.embed(jnp.concatenate([prompt.tokens, own_RS], axis=1))
        T = prompt.tokens.shape[1]
        asked_RTD = self._with_images(prompt, x_RSD[:, :T], remat)
        x_RSD = jnp.concatenate([asked_RTD, x_RSD[:, T:]], axis=1)
        R, S = own_RS.shape
        at_R3S = jnp.broadcast_to(at_RS[:, None], (R, 3, S), out_sharding=P(ROWS, None, None))
        return x_RSD, jnp.concatenate([prompt.positions, at_R3S], axis=2)

    def hidden(self, prompt: Prompt, remat: str = "block") -> jax.Array:
        """Final hidden states of the prompts alone [R, T, D]."""
        x_RTD = self.embed(prompt, remat)
        return self.text(x_RTD, prompt.positions, prompt_mask(prompt), remat=remat)[0]

    def row_hidden(
        self, prompt: Prompt, examples_RS: jax.Array, at_RC: jax.Array, remat: str = "block"
    ) -> jax.Array:
        """[R, 1, C, D]: final hidden states at some places of rows of several examples, each of
        which sees itself alone."""
        x_RSD = self.embed(prompt, remat)
        hidden_RSD, _ = self.text(
            x_RSD, prompt.positions, examples_RS > 0, remat=remat, examples_RS=examples_RS
        )
        return jnp.take_along_axis(hidden_RSD, at_RC[..., None], axis=1)[:, None]

    def attention_weights(self, prompt: Prompt, layer: jax.Array) -> jax.Array:
        """What prompts look at in a layer of the decoder: float32 [R, K, G, query, key]."""
        return self.text.attention_weights(
            self.embed(prompt), prompt.positions, prompt_mask(prompt), layer
        )

    def completion_hidden(
        self, prompt: Prompt, tokens_RgC: jax.Array, remat: str = "block"
    ) -> jax.Array:
        """[R, g, C, D]: the state that predicts each completion token.

        One sequence a row, [ prompt | c_1 | .. | c_g ]; the first token of every completion is
        predicted by the prompt's last token, so that state is shared by the group.
        """
        R, g, C = tokens_RgC.shape
        T = prompt.tokens.shape[1]
        own_RC = prompt.next_position[:, None] + jnp.arange(C)
        # Not `tile`: of one row jax cannot tell afterwards that rows are what is split.
        own_RgC = jnp.broadcast_to(own_RC[:, None], (R, g, C), out_sharding=P(ROWS, None, None))
        x_RSD, positions = self._branched(prompt, tokens_RgC, own_RgC, remat)
        hidden_RSD, _ = self.text(x_RSD, positions, prompt_mask(prompt), g, remat=remat)
        first = last_hidden(prompt, hidden_RSD[:, :T])[:, None, None]
        own = fold(hidden_RSD[:, T:], "R (g C) D -> R g C D", g=g)
        first = jnp.broadcast_to(first, (R, g, 1, own.shape[-1]))
        return jnp.concatenate([first, own[:, :, :-1]], axis=2)


def rows_at_a_time(rows: int, tokens: int, limit: int) -> int:
    """The most rows of a device, a divisor of all its `rows`, with which `tokens` of each, patches
    among them, stay within `limit`; at least one."""
    few = min(rows, max(1, limit // tokens))
    return max(number for number in range(1, few + 1) if rows % number == 0)


def _in_turn(
    some: Callable, prompt: Prompt, shards: int, pieces: int
) -> tuple[jax.Array, list[KVCache]]:
    """`some(prompt)` -> (hidden [R, q, D], caches [B, r, ..]) on `pieces` shares of each shard's
    rows, one after the other."""

    def share(number: jax.Array) -> tuple[jax.Array, list[KVCache]]:
        def cut(x: jax.Array) -> jax.Array:
            size = x.shape[0] // shards // pieces
            x = fold(x, _BY_SHARD, B=shards)
            x = jax.lax.dynamic_slice_in_dim(x, number * size, size, axis=1)
            return fold(x, _TOGETHER)

        hidden, cache = some(jax.tree.map(cut, prompt))
        return fold(hidden, _BY_SHARD, B=shards), cache

    def put(number: jax.Array, sofar: tuple[jax.Array, list[KVCache]]):
        def into(whole: jax.Array, part: jax.Array) -> jax.Array:
            at = number * part.shape[1]
            return jax.lax.dynamic_update_slice_in_dim(whole, part, at, axis=1)

        return jax.tree.map(into, sofar, share(number))

    def room(x: Any) -> jax.Array:
        shape = (shards, x.shape[1] * pieces, *x.shape[2:])
        return jnp.zeros(shape, x.dtype, out_sharding=x.sharding.spec)

    rooms = jax.tree.map(room, jax.eval_shape(share, 0))
    hidden, cache = jax.lax.fori_loop(0, pieces, put, rooms)
    return fold(hidden, _TOGETHER), cache


def prompt_mask(prompt: Prompt) -> jax.Array:
    """[R, T], true on real tokens."""
    return jnp.arange(prompt.tokens.shape[1]) < prompt.length[:, None]


def last_hidden(prompt: Prompt, hidden_RTD: jax.Array) -> jax.Array:
    """[R, D] at each prompt's last real token."""
    return jnp.take_along_axis(hidden_RTD, (prompt.length - 1)[:, None, None], axis=1)[:, 0]


def _last_of_prompts(prompt: Prompt, hidden_RSD: jax.Array) -> jax.Array:
    """[R, q, D] at the last real token of each of a row's prompts."""
    if prompt.suffixes is None:
        return last_hidden(prompt, hidden_RSD)[:, None]
    q, T = prompt.suffixes.tokens.shape[1], prompt.tokens.shape[1]
    own_RqFD = fold(hidden_RSD[:, T:], "R (q F) D -> R q F D", q=q)
    last_Rq11 = (prompt.suffixes.length - 1)[..., None, None]
    return jnp.take_along_axis(own_RqFD, last_Rq11, axis=2)[:, :, 0]


def prompts_mask(prompt: Prompt) -> jax.Array:
    """[R, q, S], of each of a row's prompts its tokens among those that the row holds."""
    shared_RT, suffixes = prompt_mask(prompt), prompt.suffixes
    if suffixes is None:
        return shared_RT[:, None]
    R, q, F = suffixes.tokens.shape
    shape = (R, q, shared_RT.shape[1])
    shared_RqT = jnp.broadcast_to(shared_RT[:, None], shape, out_sharding=P(ROWS, None, None))
    real_RqF = jnp.arange(F) < suffixes.length[..., None]
    own = jnp.eye(q, dtype=bool)[..., None] & real_RqF[:, :, None]  # [R, q, q, F]
    return jnp.concatenate([shared_RqT, fold(own, "R q p F -> R q (p F)")], axis=2)


def to_compute_dtype(params: dict[str, Any], dtype: str, arch: TextArch) -> dict[str, Any]:
    """Parameters (master weights) as products take them: in `dtype`, but for a float32 head."""
    table = "text/embed/w" if arch.tied else "text/head/w"
    return cast(params, dtype, keep=table if arch.float32_head else "")


def assemble(graphdef: nnx.GraphDef, params: dict[str, Any], dtype: str) -> QwenVL:
    """The model inside jit, its products in `dtype`."""
    arch = nnx.merge(graphdef, params).text.arch
    return nnx.merge(graphdef, to_compute_dtype(params, dtype, arch))


def init_params(arch: Arch, key: jax.Array) -> dict[str, Any]:
    """Fresh random parameters as a nested dict, float32."""
    model = QwenVL(arch, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


def abstract_params(arch: Arch) -> dict[str, Any]:
    """Shapes of the parameters, no memory used."""
    return jax.eval_shape(lambda: init_params(arch, jax.random.key(0)))


def graphdef(arch: Arch) -> nnx.GraphDef:
    """The model without its parameters; `assemble` inside jit gives it back."""
    model = jax.eval_shape(lambda: QwenVL(arch, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)[0]


def check_mesh(arch: Arch, mesh: Mesh, field: str = "mesh.tensor") -> None:
    """UserError where the model cannot be cut as the mesh asks: its parameters or its heads.
    `field` says how many devices there are along tensor."""
    check_divisible(abstract_params(arch), mesh)
    tensor, kv_heads = mesh.shape["tensor"], arch.text.kv_heads
    for name, heads in (("tower", arch.vision.heads), ("decoder", arch.text.heads)):
        if heads % tensor:
            raise UserError(
                f"the {name}'s {heads} heads do not divide by {field} = {tensor}; "
                f"choose a smaller {field}"
            )
    if max(kv_heads, tensor) % min(kv_heads, tensor):
        raise UserError(
            f"{kv_heads} kv heads do not fit {field} = {tensor}; choose one that divides "
            "their number or is a multiple of it"
        )
