# SPDX-License-Identifier: Apache-2.0
"""Small layers shared by the tower and the decoder, and the letters that arrays wear.

    R rows            S tokens of a row (prompt and completions)    T prompt tokens
    g completions     C tokens of a completion                      P patches, M merged patches
    D model width     F hidden width     N query heads     K kv heads     G = N/K     H head size
    V vocabulary      L layers           E values in a patch

Modules are used as plain pytrees: parameters are a nested dict outside, `nnx.merge` brings them
together inside a jitted function, and their dtype is the dtype that products are computed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, axis_size, path_name, platform
from jaxvl.models.int8 import product, quantize, scaled

# Names of what a policy may keep for the backward pass: see `remat_layer`.
PRODUCT = "product"  # what a Linear returns before its bias
ATTENDED = "attended"  # what attention returns, and what a kernel's backward pass reads beside it
CUDNN = "dot_product_attention_fwd_wrapper"  # the primitive whose outputs are that of cuDNN


def normal(rngs: nnx.Rngs, *shape: int, fan_in: int) -> nnx.Param:
    """Fresh weights of deviation 1/sqrt(fan_in): small models learn slower from a fixed 0.02."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) * fan_in**-0.5)


def gather(w: jax.Array, *spec: str | None) -> jax.Array:
    """A weight with its fsdp shards together, split as `spec` says.

    `reduced`: the parts of its gradient, one a device, stay apart until all come back through here,
    where they are summed and cut into shards in one exchange. Without it each product would make
    the sum, whole on every device, and one in a loop would every turn.
    """
    return reshard(w, P(*spec, reduced=set(ROWS)))


@jax.custom_vjp
def column_parallel_matmul(x_RSD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x @ w [R, S, F], F split over tensor; its gradient has an order of its own.

    JAX writes the gradient of w as g^T x, and a CPU then copies g, the wide one, into another order
    together with the activation's derivative. As x^T g the narrow one is copied, once for all that
    x feeds: an update takes four fifths of the time.
    """
    return jnp.einsum("RSD,DF->RSF", x_RSD, w_DF, out_sharding=P(ROWS, None, "tensor"))


def _column_parallel_backward(kept, g_RSF):
    x_RSD, w_DF = kept
    return (
        jnp.einsum("RSF,DF->RSD", g_RSF, w_DF, out_sharding=P(ROWS, None, None)),
        jnp.einsum(
            "RSD,RSF->DF", x_RSD, g_RSF, out_sharding=P(None, "tensor", unreduced=set(ROWS))
        ),
    )


column_parallel_matmul.defvjp(
    lambda x_RSD, w_DF: (column_parallel_matmul(x_RSD, w_DF), (x_RSD, w_DF)),
    _column_parallel_backward,
)


class Linear(nnx.Module):
    """x @ w + b on [R, S, in]. "column": the output is split over tensor; "row": the input is."""

    def __init__(self, kind: str, d_in: int, d_out: int, *, bias: bool, rngs: nnx.Rngs):
        self.kind = kind
        # Outputs that are added to a residual start small, so that a fresh stack is near identity.
        self.w = normal(rngs, d_in, d_out, fan_in=d_in if kind == "column" else 16 * d_in)
        if bias:
            self.b = nnx.Param(jnp.zeros(d_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "column":
            y = column_parallel_matmul(x, gather(self.w[...], None, "tensor"))
        else:
            w = gather(self.w[...], "tensor", None)
            y = jnp.einsum("RSF,FD->RSD", x, w, out_sharding=P(ROWS, None, None))
        y = checkpoint_name(y, PRODUCT)
        if hasattr(self, "lora"):  # a `lora.Adapter`, where the parameters hold one
            y = y + self.lora(x)
        return y + self.b[...] if hasattr(self, "b") else y

    def to_heads(self, x: jax.Array, heads: int) -> jax.Array:
        """[R, S, N, H], what a "column" one returns in heads.

        On a TPU the product itself writes a head's tokens side by side, as kernels read them. Of a
        product of whole rows its compiler makes copies in other orders, to and fro, which take the
        tower, whose heads have 80 numbers, longer than all products.
        """
        if platform() != "tpu":
            return split_heads(self(x), heads)
        w_DNH = fold(self.w[...], "D (N H) -> D N H", N=heads)
        w_DNH = gather(w_DNH, None, "tensor", None)
        by_head = P(ROWS, "tensor", None, None)
        y_RNSH = jnp.einsum("RSD,DNH->RNSH", x, w_DNH, out_sharding=by_head)
        y_RNSH = checkpoint_name(y_RNSH, PRODUCT)
        y_RSNH = rearrange(y_RNSH, "R N S H -> R S N H")
        if hasattr(self, "lora"):
            y_RSNH = y_RSNH + split_heads(self.lora(x), heads)
        return y_RSNH + fold(self.b[...], "(N H) -> N H", N=heads) if hasattr(self, "b") else y_RSNH

    def from_heads(self, x_RSNH: jax.Array) -> jax.Array:
        """[R, S, D], what a "row" one returns for heads; see `to_heads`."""
        if platform() != "tpu":
            return self(join_heads(x_RSNH))
        w_NHD = fold(self.w[...], "(N H) D -> N H D", N=x_RSNH.shape[2])
        w_NHD = gather(w_NHD, "tensor", None, None)
        x_RNSH = rearrange(x_RSNH, "R S N H -> R N S H")
        y = jnp.einsum("RNSH,NHD->RSD", x_RNSH, w_NHD, out_sharding=P(ROWS, None, None))
        y = checkpoint_name(y, PRODUCT)
        if hasattr(self, "lora"):
            y = y + self.lora(join_heads(x_RSNH))
        return y + self.b[...] if hasattr(self, "b") else y


class FusedLinear(nnx.Module):
    """Several "column" `Linear`s of one input as one product: x [R, S, in] -> what each returns.

    For decoding, where every product of a few rows has a price of its own. Each device's columns of
    all weights stand side by side, so that the split over tensor stays as it is. So do the first
    factors of adapters, whole on every device, whose second factors are another product, zero
    where one does not change what another weight makes. Left beside the weights, XLA's GPU compiler
    would join them itself, and write all of them anew for every token. `int8`: see `models.int8`.
    """

    def __init__(self, linears: list[Linear], int8: bool):
        parts = axis_size("tensor")

        def side_by_side(leaves: list[jax.Array]) -> jax.Array:
            cut = [fold(x, "... (P f) -> ... P f", P=parts) for x in leaves]
            return jnp.concatenate(cut, axis=-1)

        self.widths = tuple(linear.w.shape[-1] // parts for linear in linears)
        w_DPf = side_by_side([linear.w[...] for linear in linears])
        adapters = [linear.lora if hasattr(linear, "lora") else None for linear in linears]
        spec = P(None, "tensor", None)
        if any(adapters):
            low = [_on_each_part(adapter.a[...], spec) for adapter in adapters if adapter]
            w_DPf = jnp.concatenate([w_DPf, *low], axis=-1)
            self.scales = _scales(adapters)
            self.low = nnx.Param(_blocks(adapters, self.widths))
        self.w = nnx.Param(w_DPf)
        if int8:
            quantize(self)
        if hasattr(linears[0], "b"):
            leaves = [reshard(linear.b[...], P("tensor")) for linear in linears]
            self.b = nnx.Param(side_by_side(leaves))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        spec = P(ROWS, None, "tensor", None)
        y_RSPf = product("RSD,DPf->RSPf", x, self, out_sharding=spec)
        ends = list(itertools.accumulate(self.widths))
        if hasattr(self, "low"):
            y_RSPf, low_RSPr = jnp.split(y_RSPf, ends[-1:], axis=-1)
            low_RSPr = scaled(low_RSPr, jnp.array(self.scales, jnp.float32))
            y_RSPf += jnp.einsum("RSPr,Prf->RSPf", low_RSPr, self.low[...], out_sharding=spec)
        y_RSPf = y_RSPf + self.b[...] if hasattr(self, "b") else y_RSPf
        return [fold(y, "R S P f -> R S (P f)") for y in jnp.split(y_RSPf, ends[:-1], axis=-1)]


class DecodeRow(nnx.Module):
    """A "row" `Linear` for decoding: beside an adapter, with which it reads x [R, S, in] in one
    product, or in `int8`."""

    def __init__(self, linear: Linear, int8: bool):
        w = linear.w[...]
        if hasattr(linear, "lora"):
            w = jnp.concatenate([w, linear.lora.a[...]], axis=-1)
            self.scales = _scales([linear.lora])
            self.low = nnx.Param(linear.lora.b[...])
        self.w = nnx.Param(w)
        if int8:
            quantize(self)
        if hasattr(linear, "b"):
            self.b = linear.b

    def __call__(self, x: jax.Array) -> jax.Array:
        whole = P(ROWS, None, None)
        y = product("RSF,FD->RSD", x, self, out_sharding=whole)
        if hasattr(self, "low"):
            y, low_RSr = jnp.split(y, [self.low.shape[-1]], axis=-1)
            low_RSr = scaled(low_RSr, jnp.array(self.scales, jnp.float32))
            y += jnp.einsum("RSr,rD->RSD", low_RSr, self.low[...], out_sharding=whole)
        return y + self.b[...] if hasattr(self, "b") else y


def _scales(adapters: list[Any]) -> tuple[float, ...]:
    """Of every number that the first factors of some adapters return."""
    return tuple(one.scale for one in adapters if one for _ in range(one.a.shape[-1]))


def _on_each_part(x_Dr: jax.Array, spec: P) -> jax.Array:
    """[D, r] -> [D, P, r]: once for each of the parts of tensor."""
    D, r = x_Dr.shape
    x_D1r = reshard(x_Dr, P(None, None))[:, None]
    return jnp.broadcast_to(x_D1r, (D, axis_size("tensor"), r), out_sharding=spec)


def _blocks(adapters: list[Any], widths: tuple[int, ...]) -> jax.Array:
    """[P, sum of r, f]: second factors of adapters, each in its weight's columns."""
    parts, spec = axis_size("tensor"), P("tensor", None, None)
    rows = []
    for at, adapter in enumerate(adapters):
        if adapter is None:
            continue
        b_rPf = fold(reshard(adapter.b[...], P(None, "tensor")), "r (P f) -> r P f", P=parts)
        b_Prf = rearrange(b_rPf, "r P f -> P r f")
        shape = b_Prf.shape[:2]
        blocks = [
            b_Prf if i == at else jnp.zeros((*shape, width), b_Prf.dtype, out_sharding=spec)
            for i, width in enumerate(widths)
        ]
        rows.append(jnp.concatenate(blocks, axis=-1))
    return jnp.concatenate(rows, axis=1)


def fuse(module: Any, *names: str, int8: bool) -> None:
    """Puts a `FusedLinear` in the place of the named "column" `Linear`s."""
    module.fused = FusedLinear([getattr(module, name) for name in names], int8)
    for name in names:
        delattr(module, name)


def fuse_row(module: Any, name: str, *, int8: bool) -> None:
    """Puts a `DecodeRow` in the place of a "row" `Linear` that has an adapter or is to be int8."""
    linear = getattr(module, name)
    if hasattr(linear, "lora") or int8:
        setattr(module, name, DecodeRow(linear, int8))


def apply_fused(module: nnx.Module, x: jax.Array, *names: str) -> list[jax.Array]:
    """What the named `Linear`s return for `x`, joined or not."""
    if hasattr(module, "fused"):
        return module.fused(x)
    return [getattr(module, name)(x) for name in names]


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, dim: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return self.scale[...] * x32.astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias, computed in float32."""

    def __init__(self, dim: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...] + self.bias[...]).astype(x.dtype)


class MLP(nnx.Module):
    """fc2(act(fc1(x))): the tower's MLP and its merger."""

    def __init__(self, d_in: int, hidden: int, d_out: int, act: Callable, *, rngs: nnx.Rngs):
        self.act = act
        self.fc1 = Linear("column", d_in, hidden, bias=True, rngs=rngs)
        self.fc2 = Linear("row", hidden, d_out, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(_made_once(self.act(self.fc1(x))))


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))"""

    COLUMNS = ("gate", "up")

    def __init__(self, dim: int, hidden: int, *, bias: bool, rngs: nnx.Rngs):
        self.gate = Linear("column", dim, hidden, bias=bias, rngs=rngs)
        self.up = Linear("column", dim, hidden, bias=bias, rngs=rngs)
        self.down = Linear("row", hidden, dim, bias=bias, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = apply_fused(self, x, *self.COLUMNS)
        hidden = jax.nn.silu(gate) * up
        if not hasattr(self, "fused"):
            hidden = _made_once(hidden)
        return self.down(hidden)


def _made_once(hidden: jax.Array) -> jax.Array:
    """The input of an MLP's second product, written: v6e's compiler would put the first product
    into the second, which takes the cycles of two more."""
    return jax.lax.optimization_barrier(hidden)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), with the error function."""
    return jax.nn.gelu(x, approximate=False)


def stack(make: Callable[..., nnx.Module], num: int, rngs: nnx.Rngs) -> nnx.Module:
    """`num` modules as one: every leaf gains a leading axis L, for `jax.lax.scan`."""
    return jax.vmap(lambda key: make(rngs=nnx.Rngs(key)))(jax.random.split(rngs.params(), num))


def remat_layer(body: Callable, remat: str) -> Callable:
    """A layer of a scan that keeps for its backward pass what `remat` says; the rest is made again.

    "block": its input alone. "products": the products of its weights too, and what attention
    returns, so that only what is cheap is computed again.
    """
    keep = {"block": None, "products": _is_kept}[remat]
    return jax.checkpoint(body, prevent_cse=False, policy=keep)  # a scan needs no barriers


def _is_kept(primitive, *operands, **parameters) -> bool:
    # What cuDNN's backward pass reads has no name to be kept by: its primitive stands for it.
    named = jax.checkpoint_policies.save_only_these_names(PRODUCT, ATTENDED)
    return primitive.name == CUDNN or named(primitive, *operands, **parameters)


def split_heads(x_RSF: jax.Array, heads: int) -> jax.Array:
    """[R, S, N*H] -> [R, S, N, H], heads split over tensor where the columns are."""
    return fold(x_RSF, "R S (N H) -> R S N H", N=heads)


def join_heads(x_RSNH: jax.Array) -> jax.Array:
    """[R, S, N, H] -> [R, S, N*H]"""
    return fold(x_RSNH, "R S N H -> R S (N H)")


def cast(params: Any, dtype: Any, keep: str = "") -> Any:
    """A parameter tree in another dtype: master weights to the dtype of computing.

    The leaf at `keep` ("text/head/w") stays as it is.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if path_name(path) == keep else x.astype(dtype), params
    )
