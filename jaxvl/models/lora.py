# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (Hu et al., "LoRA", 2021): x w + (alpha / rank) (x a) b, with w frozen.

A transform of the parameter dictionary: beside text/layers/attn/q/w [L, in, out] it puts
text/layers/attn/q/lora/a [L, in, rank] and .../lora/b [L, rank, out]. They work on activations,
in sampler and learner alike: no second copy of a weight is made, the gradient of a whole weight
is never computed, and an update too small for bfloat16 is not rounded away in a sum with w.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.config import LoRA
from jaxvl.distributed.mesh import ROWS, param_spec
from jaxvl.errors import UserError
from jaxvl.models.arch import Arch
from jaxvl.models.partition import part
from jaxvl.models.qwen_vl import QwenVL


class Adapter(nnx.Module):
    """scale (dropout(x) a) b on [R, S, in], split over the mesh as the `Linear` it stands beside.

    Dropout is on where there is a `key`, which `drop_out` puts there.
    """

    key: nnx.Param

    def __init__(self, kind: str, a: jax.Array, b: jax.Array, cfg: LoRA):
        self.kind, self.scale, self.rate = kind, cfg.alpha / cfg.rank, cfg.dropout
        self.a, self.b = nnx.Param(a), nnx.Param(b)

    def __call__(self, x: jax.Array) -> jax.Array:
        inner, outer = (None, "tensor") if self.kind == "column" else ("tensor", None)
        if hasattr(self, "key"):
            spec = P(ROWS, None, inner)
            kept = jax.random.bernoulli(self.key[...], 1 - self.rate, x.shape, out_sharding=spec)
            x = jnp.where(kept, x / (1 - self.rate), 0)
        a, b = reshard(self.a[...], P(inner, None)), reshard(self.b[...], P(None, outer))
        low_RSr = jnp.einsum("RSD,Dr->RSr", x, a, out_sharding=P(ROWS, None, None))
        # alpha / rank may not be a bfloat16 number: rounded, it would be off for all alike.
        low_RSr = (low_RSr.astype(jnp.float32) * self.scale).astype(x.dtype)
        return jnp.einsum("RSr,rF->RSF", low_RSr, b, out_sharding=P(ROWS, None, outer))


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of fresh adapters and of dropout: those of step 0, while sampling begins at 1."""
    return tuple(jax.random.split(jax.random.fold_in(jax.random.key(seed), 0)))


def targets(params: dict[str, Any], cfg: LoRA) -> list[str]:
    """The projections that get adapters, as "text/layers/attn/q", in order."""
    found = []
    for path in traverse_util.flatten_dict(params, sep="/"):
        parent, _, leaf = path.rpartition("/")
        if leaf == "w" and part(path) in cfg.parts and parent.rpartition("/")[2] in cfg.targets:
            found.append(parent)
    if not found:
        raise UserError(
            f"model.lora: no projection named {', '.join(cfg.targets) or '(none)'} "
            f"in {', '.join(cfg.parts) or '(no part)'}"
        )
    return sorted(found)


def init(params: dict[str, Any], cfg: LoRA, key: jax.Array) -> dict[str, Any]:
    """Fresh adapters for `params` (arrays or shapes), float32, split over the mesh in force.

    b is zero: the model is still its base. a is uniform within 1/sqrt(in), as PEFT has it, so that
    learning rates mean the same.
    """
    weights = traverse_util.flatten_dict(params, sep="/")

    @jax.jit
    def make(key: jax.Array) -> dict[str, Any]:
        flat = {}
        for number, path in enumerate(targets(params, cfg)):
            *lead, d_in, d_out = weights[f"{path}/w"].shape
            shape, bound = (*lead, d_in, cfg.rank), d_in**-0.5
            own = jax.random.fold_in(key, number)
            flat[f"{path}/lora/a"] = jax.random.uniform(own, shape, minval=-bound, maxval=bound)
            flat[f"{path}/lora/b"] = jnp.zeros((*lead, cfg.rank, d_out))
        placed = {path: reshard(x, param_spec(path, x.ndim)) for path, x in flat.items()}
        return traverse_util.unflatten_dict(placed, sep="/")

    return make(key)


@functools.cache
def graphdef(arch: Arch, cfg: LoRA) -> nnx.GraphDef:
    """`qwen_vl.graphdef` of the model with adapters: it merges with parameters that hold them."""

    def make() -> QwenVL:
        model = QwenVL(arch, rngs=nnx.Rngs(0))
        params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
        for path in targets(params, cfg):
            linear: Any = functools.reduce(getattr, path.split("/"), model)
            shape = linear.w[...].shape  # the adapters' own shapes come with the parameters
            linear.lora = Adapter(linear.kind, jnp.zeros(shape), jnp.zeros(shape), cfg)
        return model

    return nnx.split(jax.eval_shape(make), nnx.Param)[0]


def adapters(module: nnx.Module) -> list[Adapter]:
    """Every adapter of a model, in an order that depends on its structure alone."""
    found = [module] if isinstance(module, Adapter) else []
    for name in sorted(vars(module)):
        child = getattr(module, name)
        found += adapters(child) if isinstance(child, nnx.Module) else []
    return found


def drop_out(model: QwenVL, key: jax.Array) -> None:
    """Turns dropout on, with a key of its own for every adapter of every layer."""
    for number, adapter in enumerate(adapters(model)):
        own = jax.random.fold_in(key, number)
        layers = adapter.a[...].shape[:-2]
        # A Param, as the weights are, so that a scan hands every layer its own.
        adapter.key = nnx.Param(jax.random.split(own, layers))


def merge(params: dict[str, Any], cfg: LoRA) -> dict[str, Any]:
    """The parameters of a plain model that computes the same: w + (alpha / rank) a b in float32."""

    @jax.jit
    def fold(w: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        change = jnp.einsum("...ir,...ro->...io", a, b, precision="highest")
        return w.astype(jnp.float32) + cfg.alpha / cfg.rank * change

    flat = traverse_util.flatten_dict(params, sep="/")
    merged = {path: x for path, x in flat.items() if "/lora/" not in path}
    for path in targets(params, cfg):
        a, b = (flat[f"{path}/lora/{leaf}"] for leaf in "ab")
        merged[f"{path}/w"] = fold(merged[f"{path}/w"], a, b)
    return traverse_util.unflatten_dict(merged, sep="/")
