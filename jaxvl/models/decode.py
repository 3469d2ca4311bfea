# SPDX-License-Identifier: Apache-2.0
"""The decoder one token at a time, in slots: each holds one completion of some prompt.

    B shards of rows (devices along data and fsdp)    r rows of a shard, g completions of a row
    S slots of a shard, Z = B*S of all                n cells of a shard, one a completion: n = r*g
    (r: the prompts whose keys and values are held)

A slot has keys and values of its own; those of the prompt stand once a row. Where a row has several
prompts it has the tokens of all, T, and a completion sees its own among them. Queries go to the row
of their prompt, where one product serves all completions of the row, and what they found comes back
to the slot: a prompt's keys are read once a token, wherever its completions are.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS
from jaxvl.models import rope
from jaxvl.models.arch import TextArch
from jaxvl.models.attention.reference import MASKED
from jaxvl.models.cache import KVCache
from jaxvl.models.layers import RMSNorm, fuse, fuse_row
from jaxvl.models.text import Decoder, DecoderLayer, Embedding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotMap:
    """Which completion every slot holds, and where each completion is."""

    cell: jax.Array  # [B, S] among the completions of the shard's rows
    slot: jax.Array | None  # [B, n] of a cell (any where it has none); None: slot i holds cell i

    def to_rows(self, x_BS: jax.Array, rows: int) -> jax.Array:
        """[B, S, ..] -> [B, r, g, ..], every row's completions side by side."""
        x_Bn = x_BS if self.slot is None else take(x_BS, self.slot)
        return fold(x_Bn, "B (r g) ... -> B r g ...", r=rows)

    def to_slots(self, x_Brg: jax.Array) -> jax.Array:
        """[B, r, g, ..] -> [B, S, ..]"""
        x_Bn = fold(x_Brg, "B r g ... -> B (r g) ...")
        return x_Bn if self.slot is None else take(x_Bn, self.cell)


def merge(x_BS: jax.Array) -> jax.Array:
    """[B, S, ..] -> [Z, ..]"""
    return fold(x_BS, "B S ... -> (B S) ...")


def take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[b, index[b]] for every shard b."""
    return jax.vmap(lambda x, index: x[index])(x, split_rows(index))


def split_rows(x: jax.Array) -> jax.Array:
    """x [B, ..], split along B alone. It is so already, but that jax 0.12 forgets it where a slice
    leaves a single number."""
    return reshard(x, P(ROWS, *(None,) * (x.ndim - 1)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeModel:
    """What decoding reads and never writes: the prompts' cache, and weights a layer each, on every
    device whole but for what is split over tensor."""

    arch: TextArch = dataclasses.field(metadata={"static": True})
    embed: Embedding
    layers: list[DecoderLayer]
    norm: RMSNorm
    head: Embedding | None  # None: `embed` is the head too; as two leaves it would be held twice
    prompts: list[KVCache]  # k [B, r, K, H, T], v [B, r, K, T, H]
    mask: jax.Array  # [B, r, 1 or g, T], true on the tokens of a completion's prompt
    cos_sin: (
        rope.CosSin
    )  # of every position there may be, [T + C, H/2]: XLA would work out those of a
    #                   token wherever a layer reads them

    @classmethod
    def of(
        cls,
        text: Decoder,
        prompts: list[KVCache],
        mask_RgT: jax.Array,
        tokens: int,
        *,
        int8_weights: bool = False,
    ) -> DecodeModel:
        """`prompts` are what prefill makes. Completions have at most so many `tokens`. With
        `int8_weights` the products of layers are of weights in eight bits; the head's stay as they
        are."""
        embed = jax.tree.map(_gather_fsdp, text.embed)
        every = jnp.arange(mask_RgT.shape[2] + tokens)  # no position is above its token's place
        positions_13S = jnp.broadcast_to(every, (1, 3, len(every)))

        def layer(i: int) -> DecoderLayer:
            one = jax.tree.map(lambda x: _gather_fsdp(x[i]), text.layers)
            fuse(one.attn, *one.attn.COLUMNS, int8=int8_weights)
            fuse(one.mlp, *one.mlp.COLUMNS, int8=int8_weights)
            fuse_row(one.attn, "o", int8=int8_weights)
            fuse_row(one.mlp, "down", int8=int8_weights)
            return one

        return cls(
            arch=text.arch,
            embed=embed,
            layers=[layer(i) for i in range(text.arch.layers)],
            norm=text.norm,
            head=None if text.arch.tied else jax.tree.map(_gather_fsdp, text.head),
            prompts=prompts,
            mask=fold(mask_RgT, "(B r) g T -> B r g T", B=prompts[0].k.shape[0]),
            cos_sin=jax.tree.map(lambda x: x[0], text.cos_sin(positions_13S)),
        )

    def extend(
        self,
        tokens_BS: jax.Array,
        position_BS: jax.Array,
        slot_map: SlotMap,
        completion_cache: list[KVCache],
        write_index: jax.Array,
        kv_mask_BSC: jax.Array,
    ) -> tuple[jax.Array, list[KVCache]]:
        """One more token of every slot: final hidden states [B, S, D] and the grown caches.

        The token's keys and values are written at `write_index` of the slots' own caches (k
        [Z, K, H, C], v [Z, K, C, H]); `kv_mask_BSC` says what a slot sees, `write_index` among
        it. A loop that carries the caches writes in place, because products read them in the very
        shape that is written: with a B of 1 in front XLA would write twice, and copy for it.
        """
        x_BSD = self.embed(tokens_BS).astype(self.norm.scale[...].dtype)
        rows = P(ROWS, None, None)
        cos, sin = (x.at[position_BS].get(out_sharding=rows, mode="clip") for x in self.cos_sin)
        grown = []
        for layer, prompt, past in zip(self.layers, self.prompts, completion_cache, strict=True):

            def attend(q, k, v, prompt=prompt, past=past):
                one = KVCache(merge(k)[..., None], merge(v)[..., None, :])
                now = past.put(one, write_index)
                return _attend(q, prompt, self.mask, now, kv_mask_BSC, slot_map), now

            x_BSD, now = layer(x_BSD, (cos, sin), attend)
            grown.append(now)
        if self.arch.float32_head:  # what it reads is not rounded
            x_BSD = x_BSD.astype(jnp.float32)
        return self.norm(x_BSD), grown

    def logits(self, hidden_BSD: jax.Array) -> jax.Array:
        """[B, S, D] -> float32 [B, S, V], the vocabulary split over tensor."""
        return (self.embed if self.head is None else self.head).logits(hidden_BSD)

    def empty_cache(self, slots: int, tokens: int) -> list[KVCache]:
        """Room for `tokens` tokens of every slot, a cache a layer; in eight bits where those of
        the prompts are."""
        B, _, K, H, _ = self.prompts[0].k.shape
        dtype, spec = self.norm.scale[...].dtype, P(ROWS, "tensor", None, None)

        def zeros(*shape):
            return jnp.zeros((B * slots, K, *shape), dtype, out_sharding=spec)

        empty = KVCache(k=zeros(H, tokens), v=zeros(tokens, H))
        return [empty.like(prompt) for prompt in self.prompts]


def _gather_fsdp(w: jax.Array) -> jax.Array:
    """A weight with its fsdp shards together: a loop would gather them for every token anew."""
    spec = (None if axis == "fsdp" else axis for axis in jax.typeof(w).sharding.spec)
    return reshard(w, P(*spec))


def _attend(
    q_BSNH: jax.Array,
    prompt: KVCache,
    mask_BrgT: jax.Array,
    completion_cache: KVCache,
    kv_mask_BSC: jax.Array,
    slot_map: SlotMap,
) -> jax.Array:
    """One query of every slot over its prompt and its own past, [B, S, N, H].

    One softmax over both: each part has a maximum and a sum of its own, and they are joined.
    """
    r, K = prompt.k.shape[1:3]
    q_BSKGH = fold(q_BSNH, "B S (K G) H -> B S K G H", K=K)
    of_prompt: tuple[jax.Array, ...] = _part(
        ("BrgKGH,BrKHT->BrKgGT", "BrKgGT,BrKTH->BrKgGH"),
        slot_map.to_rows(q_BSKGH, r),
        prompt,
        mask_BrgT[:, :, None, :, None],
    )
    of_prompt = tuple(rearrange(x, "B r K g ... -> B r g K ...") for x in of_prompt)
    of_prompt = tuple(merge(slot_map.to_slots(x)) for x in of_prompt)
    of_own = _part(
        ("ZKGH,ZKHC->ZKGC", "ZKGC,ZKCH->ZKGH"),
        merge(q_BSKGH),
        completion_cache,
        merge(kv_mask_BSC)[:, None, None],
    )
    top = jnp.maximum(of_prompt[1], of_own[1])
    out: jax.Array | float = 0.0
    total: jax.Array | float = 0.0
    for part_out, part_top, part_total in (of_prompt, of_own):
        share = jnp.exp(part_top - top)
        out += part_out * share[..., None]
        total += part_total * share
    out = (out / jnp.asarray(total)[..., None]).astype(q_BSNH.dtype)
    return fold(out, "(B S) K G H -> B S (K G) H", B=len(q_BSNH))


def _part(
    products: tuple[str, str], q: jax.Array, cache: KVCache, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax attention before its division: the weighted sum, the maximum, the sum; float32."""

    def product(pattern: str, x: jax.Array, of_cache: jax.Array) -> jax.Array:
        of_cache = of_cache.astype(q.dtype)  # of int8 too: see `models.cache`
        return jnp.einsum(pattern, x.astype(q.dtype), of_cache, preferred_element_type=jnp.float32)

    scores = _scaled(product(products[0], q, cache.k), cache.k_scale)
    scores = jnp.where(mask, scores * q.shape[-1] ** -0.5, MASKED)
    top = scores.max(-1)
    weights = jnp.exp(scores - top[..., None])
    out = product(products[1], _scaled(weights, cache.v_scale), cache.v)
    return out, top, weights.sum(-1)


def _scaled(pairs: jax.Array, scale: jax.Array | None) -> jax.Array:
    """Numbers of pairs [.., K, .., T] times the scale [.., K, T] of their tokens, if there is
    one."""
    if scale is None:
        return pairs
    between = range(scale.ndim - 1, pairs.ndim - 1)
    return pairs * jnp.expand_dims(scale, tuple(between))
