# SPDX-License-Identifier: Apache-2.0
"""The one table of weight names: ours, those of Hugging Face checkpoints, and how they lie there.

Stacked parameters ([L, ..], a tensor for every layer there) are read and written layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from einops import rearrange

from jaxvl.distributed.mesh import fetch

# ours -> theirs (the names of the public checkpoints; `{}` is the layer) and how the array is laid
# out there: "T" transposed, "=" as it is, "conv" a 3-D convolution, "q", "k", "v" a third of a
# fused projection, transposed. Rows of both families: a model has those of its own.
_BLOCK, _LAYER = "visual.blocks.{}.", "model.layers.{}."
NAMES: tuple[tuple[str, str, str], ...] = (
    ("vision/patch_embed/w", "visual.patch_embed.proj.weight", "conv"),
    *(
        (f"vision/blocks/{ours}", _BLOCK + theirs, kind)
        for ours, theirs, kind in (
            ("norm1/scale", "norm1.weight", "="),
            ("norm1/bias", "norm1.bias", "="),
            ("attn/q/w", "attn.qkv.weight", "q"),
            ("attn/k/w", "attn.qkv.weight", "k"),
            ("attn/v/w", "attn.qkv.weight", "v"),
            ("attn/q/b", "attn.qkv.bias", "q"),
            ("attn/k/b", "attn.qkv.bias", "k"),
            ("attn/v/b", "attn.qkv.bias", "v"),
            ("attn/o/w", "attn.proj.weight", "T"),
            ("attn/o/b", "attn.proj.bias", "="),
            ("norm2/scale", "norm2.weight", "="),
            ("norm2/bias", "norm2.bias", "="),
            ("mlp/fc1/w", "mlp.fc1.weight", "T"),
            ("mlp/fc1/b", "mlp.fc1.bias", "="),
            ("mlp/fc2/w", "mlp.fc2.weight", "T"),
            ("mlp/fc2/b", "mlp.fc2.bias", "="),
            ("mlp/gate/w", "mlp.gate_proj.weight", "T"),
            ("mlp/gate/b", "mlp.gate_proj.bias", "="),
            ("mlp/up/w", "mlp.up_proj.weight", "T"),
            ("mlp/up/b", "mlp.up_proj.bias", "="),
            ("mlp/down/w", "mlp.down_proj.weight", "T"),
            ("mlp/down/b", "mlp.down_proj.bias", "="),
        )
    ),
    ("vision/merger/norm/scale", "visual.merger.ln_q.weight", "="),
    ("vision/merger/norm/bias", "visual.merger.ln_q.bias", "="),
    ("vision/merger/mlp/fc1/w", "visual.merger.mlp.0.weight", "T"),
    ("vision/merger/mlp/fc1/b", "visual.merger.mlp.0.bias", "="),
    ("vision/merger/mlp/fc2/w", "visual.merger.mlp.2.weight", "T"),
    ("vision/merger/mlp/fc2/b", "visual.merger.mlp.2.bias", "="),
    ("text/embed/w", "model.embed_tokens.weight", "="),
    *(
        (f"text/layers/{ours}", _LAYER + theirs, kind)
        for ours, theirs, kind in (
            ("norm1/scale", "input_layernorm.weight", "="),
            ("attn/q/w", "self_attn.q_proj.weight", "T"),
            ("attn/q/b", "self_attn.q_proj.bias", "="),
            ("attn/k/w", "self_attn.k_proj.weight", "T"),
            ("attn/k/b", "self_attn.k_proj.bias", "="),
            ("attn/v/w", "self_attn.v_proj.weight", "T"),
            ("attn/v/b", "self_attn.v_proj.bias", "="),
            ("attn/o/w", "self_attn.o_proj.weight", "T"),
            ("norm2/scale", "post_attention_layernorm.weight", "="),
            ("mlp/gate/w", "mlp.gate_proj.weight", "T"),
            ("mlp/up/w", "mlp.up_proj.weight", "T"),
            ("mlp/down/w", "mlp.down_proj.weight", "T"),
        )
    ),
    ("text/norm/scale", "model.norm.weight", "="),
    ("text/head/w", "lm_head.weight", "="),
)


def public_name(name: str) -> str:
    """Weight names of transformers >= 4.52 as the public checkpoints have them."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name


def leaf(tree: Mapping[str, Any], path: str) -> Any:
    """The leaf of a nested dict at "a/b/c"."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def entries(params: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """The rows of NAMES that this model has, with its leaf."""
    for ours, theirs, kind in NAMES:
        try:
            yield ours, theirs, kind, leaf(params, ours)
        except KeyError:  # a tied model has no head, a tower one kind of MLP
            continue


def is_stacked(theirs: str) -> bool:
    """Whether the parameter has a tensor for every layer."""
    return "{}" in theirs


def stored_shape(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the checkpoint's tensor (of one layer) from ours; a "conv" with a flat kernel."""
    if kind in ("q", "k", "v"):
        return (3 * shape[-1], *shape[:-1][::-1])
    return tuple(shape[::-1] if kind in ("T", "conv") else shape)


def read_part(tensor: Any, kind: str, shape: Sequence[int], at: Sequence[slice]) -> np.ndarray:
    """Part `at` of our array (of one layer, of `shape`) out of the checkpoint's tensor.

    `tensor` reads what it is sliced for and nothing else, as those of safetensors do.
    """
    at = tuple(slice(*part.indices(size)[:2]) for part, size in zip(at, shape, strict=True))
    if kind in ("q", "k", "v"):
        skip = "qkv".index(kind) * shape[-1]
        outputs = slice(skip + at[-1].start, skip + at[-1].stop)
        return tensor[(outputs, *at[:-1])].T
    if kind == "conv":
        kernels = tensor[at[1]]
        return rearrange(kernels, "D ... -> D (...)")[:, at[0]].T
    return tensor[at[::-1]].T if kind == "T" else tensor[at]


def export_tensors(params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(public name, array) of every tensor, one (stacked) parameter on the host at a time.

    The kernel of the patch embedding is flat.
    """
    for ours, theirs, kind, array in entries(params):
        if kind in ("k", "v"):
            continue  # written with q
        parts = [fetch(array)]
        if kind == "q":
            parent, last = ours.rsplit("q/", 1)
            parts += [fetch(leaf(params, f"{parent}{x}/{last}")) for x in "kv"]
        if not is_stacked(theirs):
            parts = [part[None] for part in parts]
        for i in range(len(parts[0])):
            tensor = parts[0][i] if kind == "=" else np.concatenate([part[i].T for part in parts])
            yield theirs.format(i), np.ascontiguousarray(tensor)
