# SPDX-License-Identifier: Apache-2.0
"""What a compiled update must not hold, whatever it was compiled for."""

from __future__ import annotations

import itertools
import math

import jax

from jaxvl.config import Config, SFTConfig
from jaxvl.distributed.mesh import param_shardings, path_name
from jaxvl.models.arch import Arch
from jaxvl.models.attention.splash import BLOCKS
from jaxvl.plan.hlo import Array, Module
from jaxvl.plan.program import Sizes
from jaxvl.rl.logprobs import chunk_size

MiB = 2.0**20
REPLICATED = 16 * MiB  # a parameter that is larger must be split over the mesh
SMALL = MiB  # arrays below it are no scores worth a word


def faults(
    module: Module, cfg: Config | SFTConfig, arch: Arch, mesh: jax.sharding.Mesh
) -> list[str]:
    """Arrays on a chip that the design rules out: logits of more tokens than a chunk has, and
    scores between all pairs of tokens or patches."""
    found = []
    for array, where in module.arrays():
        if _is_logits(array, cfg, arch, mesh):
            found.append(f"logits of more tokens than a chunk: {array} ({where})")
        if _is_scores(array, cfg, arch, mesh):
            found.append(f"scores of all pairs of tokens: {array} ({where})")
    return found


def _is_logits(array: Array, cfg: Config | SFTConfig, arch: Arch, mesh) -> bool:
    text, tensor, fsdp = arch.text, mesh.shape["tensor"], mesh.shape["fsdp"]
    vocab = {text.vocab, text.vocab // tensor}
    rest = [size for size in array.shape if size not in vocab and size > 1]
    if not vocab & set(array.shape) or rest in ([text.dim], [text.dim // fsdp]):
        return False  # the second: the table of tokens
    sizes = Sizes.of(cfg)
    rows = sizes.rows // sizes.micro_batches // (mesh.shape["data"] * fsdp)
    chunk = chunk_size(cfg.batch.logprob_chunk, rows)
    return math.prod(rest) > rows * min(chunk, sizes.completions * sizes.length)


def _is_scores(array: Array, cfg: Config | SFTConfig, arch: Arch, mesh) -> bool:
    """Two axes that count tokens of a row, or its patches, as many as there are in a part of it."""
    if array.bytes < SMALL or array.dtype in ("pred", "s32", "u32", "s8", "u8"):
        return False
    sizes, text, vision = Sizes.of(cfg), arch.text, arch.vision
    own = sizes.completions * sizes.length
    lengths = {sizes.tokens, own, sizes.tokens + sizes.length, sizes.tokens + own, sizes.patches}
    lengths |= {size + -size % block for size in lengths for block in BLOCKS}
    parts = (1, mesh.shape["fsdp"], mesh.shape["tensor"])
    words = (text.dim, text.hidden, text.heads * text.head_dim, text.kv_heads * text.head_dim)
    images = (vision.dim, vision.hidden, vision.dim * vision.merge_size**2, text.vocab)
    lengths -= {width // part for width, part in itertools.product(words + images, parts)}
    return sum(size in lengths for size in array.shape) > 1


def replicated(params: dict, mesh: jax.sharding.Mesh) -> list[str]:
    """Parameters (shapes) above `REPLICATED` that are not split over an axis of the mesh which is
    there to split them, or that every chip holds whole. Of a single chip nothing is said."""
    if mesh.size == 1:
        return []
    found = []
    for (path, x), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(param_shardings(params, mesh)),
        strict=True,
    ):
        size, over = x.size * x.dtype.itemsize, set(jax.tree.leaves(tuple(sharding.spec)))
        missing = [name for name in ("fsdp", "tensor") if mesh.shape[name] > 1 and name not in over]
        if size <= REPLICATED or not (missing or sharding.is_fully_replicated):
            continue
        axes = " or ".join(missing) or "fsdp or tensor"
        found.append(f"{path_name(path)}: {size / MiB:.0f} MiB, not split over {axes}")
    return found
