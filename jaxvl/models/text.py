# SPDX-License-Identifier: Apache-2.0
"""Qwen2's decoder: one stack of layers, run over a whole row or one token of each completion."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.mesh import ROWS, axis_size
from jaxvl.models import attention, rope
from jaxvl.models.arch import TextArch
from jaxvl.models.cache import KVCache
from jaxvl.models.layers import (
    Linear,
    RMSNorm,
    SwiGLU,
    gather,
    join_heads,
    normal,
    remat_layer,
    split_heads,
    stack,
)


class Attention(nnx.Module):
    """The projections of grouped-query attention; `qkv` rotates q and k. The layer mixes values."""

    COLUMNS = ("q", "k", "v")

    def __init__(self, arch: TextArch, *, rngs: nnx.Rngs):
        self.heads, self.kv_heads = arch.heads, arch.kv_heads
        width, kv_width = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        self.q = Linear("column", arch.dim, width, bias=True, rngs=rngs)
        self.k = Linear("column", arch.dim, kv_width, bias=True, rngs=rngs)
        self.v = Linear("column", arch.dim, kv_width, bias=True, rngs=rngs)
        self.o = Linear("row", width, arch.dim, bias=False, rngs=rngs)

    def qkv(self, x_RSD: jax.Array, cos_sin: rope.CosSin) -> tuple[jax.Array, jax.Array, jax.Array]:
        if hasattr(self, "fused"):
            q_RSF, *kv = self.fused(x_RSD)
            q_RSNH = split_heads(q_RSF, self.heads)
            k_RSKH, v_RSKH = (self._split_kv(x_RSF) for x_RSF in kv)
        else:
            q_RSNH = self.q.to_heads(x_RSD, self.heads)
            k_RSKH, v_RSKH = (self._kv_heads(part, x_RSD) for part in (self.k, self.v))
        return rope.rotate(q_RSNH, cos_sin), rope.rotate(k_RSKH, cos_sin), v_RSKH

    def _kv_heads(self, part: Linear, x_RSD: jax.Array) -> jax.Array:
        if axis_size("tensor") <= self.kv_heads:
            return part.to_heads(x_RSD, self.kv_heads)
        return self._split_kv(part(x_RSD))

    def _split_kv(self, x_RSF: jax.Array) -> jax.Array:
        if axis_size("tensor") <= self.kv_heads:
            return split_heads(x_RSF, self.kv_heads)
        x_RSF = reshard(x_RSF, P(ROWS, None, None))  # fewer heads than parts: gather, then repeat
        return attention.share_kv(split_heads(x_RSF, self.kv_heads))

    def out(self, x_RSNH: jax.Array) -> jax.Array:
        """What attention found, back to the width of the model."""
        return self.o(join_heads(x_RSNH)) if hasattr(self, "fused") else self.o.from_heads(x_RSNH)


class DecoderLayer(nnx.Module):
    """Pre-norm attention and SwiGLU, each added to the residual stream [R, S, D]."""

    def __init__(self, arch: TextArch, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(arch.dim, arch.norm_eps)
        self.attn = Attention(arch, rngs=rngs)
        self.norm2 = RMSNorm(arch.dim, arch.norm_eps)
        self.mlp = SwiGLU(arch.dim, arch.hidden, bias=False, rngs=rngs)

    def __call__(self, x_RSD: jax.Array, cos_sin: rope.CosSin, attend: Callable):
        """`attend(q, k, v)` returns the attention's output and what it wants kept."""
        with jax.named_scope("attention"):
            out_RSNH, kept = attend(*self.attn.qkv(self.norm1(x_RSD), cos_sin))
            x_RSD = x_RSD + self.attn.out(out_RSNH)
        with jax.named_scope("mlp"):
            return x_RSD + self.mlp(self.norm2(x_RSD)), kept


class Embedding(nnx.Module):
    """A [V, D] table: token vectors in, or logits out."""

    def __init__(self, arch: TextArch, *, rngs: nnx.Rngs):
        self.w = normal(rngs, arch.vocab, arch.dim, fan_in=arch.dim)
        # Of itself an accelerator multiplies float32 in fewer bits.
        self.precision = jax.lax.Precision.HIGHEST if arch.float32_head else None

    @jax.named_scope("embedding")
    def __call__(self, tokens_RS: jax.Array) -> jax.Array:
        # Looked up with the width whole: split over fsdp as well, XLA would replicate the result.
        return self.table().at[tokens_RS].get(out_sharding=P(ROWS, None, None))

    def table(self) -> jax.Array:
        """[V, D], gathered over fsdp."""
        return gather(self.w[...], "tensor", None)

    @jax.named_scope("head")
    def logits(self, x_RSD: jax.Array, table_VD: jax.Array | None = None) -> jax.Array:
        """[R, S, D] -> float32 [R, S, V], the vocabulary split over tensor."""
        table_VD = self.table() if table_VD is None else table_VD
        return jnp.einsum(
            "RSD,VD->RSV",
            x_RSD,
            table_VD,
            precision=self.precision,
            preferred_element_type=jnp.float32,
            out_sharding=P(ROWS, None, "tensor"),
        )


class Decoder(nnx.Module):
    """Token vectors -> final hidden states, both [R, S, D], of which `logits` makes [R, S, V]."""

    def __init__(self, arch: TextArch, *, rngs: nnx.Rngs):
        self.arch = arch
        self.embed = Embedding(arch, rngs=rngs)
        self.layers = stack(functools.partial(DecoderLayer, arch), arch.layers, rngs)
        self.norm = RMSNorm(arch.dim, arch.norm_eps)
        if not arch.tied:
            self.head = Embedding(arch, rngs=rngs)

    def table(self) -> jax.Array:
        """The head's, gathered: a loop over tokens has it made once, before it begins."""
        return (self.embed if self.arch.tied else self.head).table()

    def logits(self, x_RSD: jax.Array, table_VD: jax.Array | None = None) -> jax.Array:
        return (self.embed if self.arch.tied else self.head).logits(x_RSD, table_VD)

    @jax.named_scope("decoder")
    def __call__(
        self,
        x_RSD: jax.Array,
        positions_R3S: jax.Array,
        prompt_mask_RT: jax.Array,
        completions: int = 0,
        *,
        keep_cache: bool = False,
        remat: str = "block",
        examples_RS: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """A row [ prompt | c_1 | .. | c_g ] -> final hidden states [R, S, D], keys and values; or,
        with `examples_RS`, a row of several texts, see `attention.row_attention`."""
        cos_sin = self.cos_sin(positions_R3S)
        x_RSD = x_RSD.astype(self.norm.scale[...].dtype)

        def attend(q, k, v):
            if examples_RS is not None:
                return attention.row_attention(q, k, v, examples_RS), None
            out = attention.tree_attention(q, k, v, prompt_mask_RT, completions)
            if not keep_cache:
                return out, None
            return out, KVCache(attention.keys_last(k), attention.heads_first(v))

        def body(x_RSD, layer):
            return layer(x_RSD, cos_sin, attend)

        x_RSD, cache = jax.lax.scan(remat_layer(body, remat), x_RSD, self.layers)
        return self._last(x_RSD), cache

    def attention_weights(
        self, x_RSD: jax.Array, positions_R3S: jax.Array, prompt_mask_RT: jax.Array, at: jax.Array
    ) -> jax.Array:
        """What the tokens of prompts look at in layer `at`: float32 [R, K, G, query, key]."""
        cos_sin = self.cos_sin(positions_R3S)

        def attend(q, k, v):
            return attention.tree_attention(q, k, v, prompt_mask_RT, completions=0), None

        def layer(i: jax.Array) -> DecoderLayer:
            return jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), self.layers
            )

        x_RSD = jax.lax.fori_loop(0, at, lambda i, x: layer(i)(x, cos_sin, attend)[0], x_RSD)
        q, k, _ = layer(at).attn.qkv(layer(at).norm1(x_RSD), cos_sin)
        return attention.masked_weights(q, k, attention.causal_mask(prompt_mask_RT))

    def _last(self, x_RSD: jax.Array) -> jax.Array:
        """The final norm; what a float32 head reads is not rounded."""
        return self.norm(x_RSD.astype(jnp.float32) if self.arch.float32_head else x_RSD)

    def cos_sin(self, positions_R3S: jax.Array) -> rope.CosSin:
        """What positions do to queries and keys, for all layers."""
        arch = self.arch
        return rope.cos_sin(rope.mrope_angles(positions_R3S, arch.mrope_section, arch.rope_theta))
