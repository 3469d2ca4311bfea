# SPDX-License-Identifier: Apache-2.0
"""Memory by counting: exact for what a run holds, a formula for what a program makes on the way.

The formula is for the design, not for a compiler: each layer keeps its input for the backward pass,
one layer's insides exist at a time, weights are gathered a layer at a time, and logits exist for a
chunk of tokens. A compiled update that takes much more does something that it should not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxvl.config import Config, SFTConfig
from jaxvl.distributed.mesh import row_shards
from jaxvl.models.arch import Arch
from jaxvl.models.qwen_vl import TOKENS, rows_at_a_time
from jaxvl.plan.program import LOOPS, Held, Program, Sizes
from jaxvl.rl.learner import TrainState
from jaxvl.rl.logprobs import chunk_size
from jaxvl.rl.sampler import DecodeInputs

DRAWN = 4  # arrays as large as the logits that exist where a token is drawn from them


def shard_bytes(tree: Any) -> float:
    """Bytes of a tree of shapes on one device, by their shardings."""
    return float(sum(_leaf_bytes(x) for x in jax.tree.leaves(tree)))


def _leaf_bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    size = 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
    return math.prod(shape) * size


def held(program: Program) -> dict[str, float]:
    """Bytes on one device by what they are, of all that a run holds while it calls the program."""
    found: dict[str, float] = {}
    for name, tree in (*program.beside.items(), *program.args.items(), *program.makes.items()):
        parts = {name: tree}
        if isinstance(tree, TrainState):
            parts = {"parameters": tree.params, "moments": tree.opt_state}
        elif isinstance(tree, DecodeInputs):
            prompts = tree.decode_model.prompts
            rest = dataclasses.replace(
                tree, decode_model=dataclasses.replace(tree.decode_model, prompts=[])
            )
            parts = {"weights for decoding": rest, "caches of prompts": prompts}
        for part, arrays in parts.items():
            size = shard_bytes(arrays)
            if any(x.shape for x in jax.tree.leaves(arrays)):  # a few numbers are not worth a word
                found[part] = found.get(part, 0.0) + size
    return found


def temporaries(program: Program, cfg: Config | SFTConfig, arch: Arch, mesh: Mesh) -> float:
    """Bytes that a program makes beside its arguments and what it returns, by formula."""
    name = program.name
    if name == "grow":
        return 0.0
    if name == "reshard":
        return _cast(program.args["parameters"], cfg.model.dtype)
    if name == "update":
        return sum(update_temporaries(cfg, arch, mesh, Held.of(cfg, arch, mesh)).values())
    sizes, width = Sizes.of(cfg), jnp.dtype(cfg.model.dtype).itemsize
    text, vision, tensor = arch.text, arch.vision, mesh.shape["tensor"]
    shards = row_shards(mesh)

    def drawn(completions: int) -> float:
        """Their float32 logits, and what is drawn from them."""
        return DRAWN * 4.0 * completions * text.vocab / tensor

    if name in LOOPS:
        return drawn(program.args["completions"].slots)
    made, logits, tokens = 0.0, 0.0, sizes.tokens
    if name in ("prefill", "wave"):
        rows = program.makes["past"].places if name == "prefill" else program.args["past"].wave
        logits = drawn(rows * sizes.completions)
        # A share of each weight as products take it.
        made = _cast(program.args.get("parameters", {}), cfg.model.dtype)
        rows = rows_at_a_time(rows, tokens + sizes.patches, TOKENS)
    else:
        rows = sizes.rows // shards // sizes.micro_batches
        tokens += sizes.completions * sizes.length
    heads = text.heads * text.head_dim
    decoder = tokens * (4 * text.dim + (2 * heads + 3 * text.hidden) / tensor)
    tower = sizes.patches * (6 * vision.dim + 3 * vision.hidden / tensor)
    table = text.vocab * text.dim / tensor
    layer = width * (rows * max(decoder, tower) + table + 2 * _weights(arch) / tensor)
    return made + max(layer, logits)


def update_temporaries(
    cfg: Config | SFTConfig, arch: Arch, mesh: Mesh, held: Held, kernels: bool = True
) -> dict[str, float]:
    """Bytes on one device that an update with activation checkpointing makes beside its arguments,
    by what they are, where the backward pass needs most. With `kernels` attention keeps no scores.
    """
    sizes, width = Sizes.of(cfg), jnp.dtype(cfg.model.dtype).itemsize
    sizes = sizes.mini_batch()
    text, vision, tensor = arch.text, arch.vision, mesh.shape["tensor"]
    R = sizes.rows // sizes.micro_batches // row_shards(mesh)
    S = sizes.tokens + sizes.completions * sizes.length
    chunk = chunk_size(cfg.batch.logprob_chunk, R)
    inputs = text.layers * S * text.dim + vision.depth * sizes.patches * vision.dim
    layer = R * _layer(sizes, arch, tensor, width, kernels) + 3 * width * _weights(arch) / tensor
    logits = 4.0 * R * min(chunk, S) * text.vocab / tensor
    head = 3 * logits + 2 * width * text.vocab * text.dim / tensor
    return {
        "weights for products": _cast(held.params, cfg.model.dtype),
        "gradients": 2 * shard_bytes(held.state.params),  # of all micro-batches, and of this one
        "inputs of layers": float(width * R * inputs),
        "a layer, its weights gathered" if layer > head else "head": max(layer, head),
    }


def row_bytes(cfg: Config | SFTConfig, arch: Arch, mesh: Mesh, kernels: bool = True) -> float:
    """Bytes that a row more in a device's micro-batch takes: inputs of layers and one layer."""
    sizes, width = Sizes.of(cfg), jnp.dtype(cfg.model.dtype).itemsize
    text, vision = arch.text, arch.vision
    S = sizes.tokens + sizes.completions * sizes.length
    inputs = text.layers * S * text.dim + vision.depth * sizes.patches * vision.dim
    return width * inputs + _layer(sizes, arch, mesh.shape["tensor"], width, kernels)


def _layer(sizes: Sizes, arch: Arch, tensor: int, width: int, kernels: bool = True) -> float:
    """Bytes inside of a decoder layer that is run forward and backward, of one row."""
    text, own = arch.text, sizes.completions * sizes.length
    S, T = sizes.tokens + own, sizes.tokens
    heads = text.heads * text.head_dim
    inside = width * S * (4 * text.dim + 2 * (2 * heads + 3 * text.hidden) / tensor)
    scores = 4.0 * text.heads / tensor * (T * T + own * (T + sizes.length))
    return inside + (0.0 if kernels else 3 * scores)


def _weights(arch: Arch) -> int:
    """Of a decoder layer."""
    text = arch.text
    q, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
    return text.dim * (2 * q + 2 * kv + 3 * text.hidden)


def _cast(params: Any, dtype: str) -> float:
    """Bytes of a copy of `params` in `dtype`, of those that are in another."""
    wanted = jnp.dtype(dtype)
    others = (x for x in jax.tree.leaves(params) if x.dtype != wanted)
    return sum(_leaf_bytes(x) / x.dtype.itemsize * wanted.itemsize for x in others)
