# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints in and out: config, weight names, safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxvl.errors import UserError
from jaxvl.models.arch import Arch, TextArch, VisionArch

SUPPORTED = "qwen2_vl"

# ours -> theirs (the names of the public checkpoints; `{}` is the layer) and how the array is laid
# out there: "T" transposed, "=" as it is, "conv" a 3-D convolution, "q", "k", "v" a third of a
# fused projection, transposed.
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


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint directory."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json; a Hugging Face checkpoint directory is expected")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error})") from error


def arch_from_config(config: Mapping[str, Any]) -> Arch:
    """The model's shape from a config: flat (public checkpoints) or nested (transformers 5)."""
    family = config.get("model_type")
    if family != SUPPORTED:
        raise UserError(f"model_type {family!r} is not supported; supported: {SUPPORTED}")
    text = {**config, **config.get("text_config", {})}
    vision = config["vision_config"]
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "mrope"):
        raise UserError(f"rope type {rope_type!r} is not supported; supported: default, mrope")
    if text.get("use_sliding_window"):
        raise UserError("use_sliding_window: true is not supported; no public Qwen2-VL uses it")
    try:
        return Arch(
            family=family,
            vision=VisionArch(
                depth=vision["depth"],
                dim=vision["embed_dim"],
                heads=vision["num_heads"],
                hidden=int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
                out_dim=vision["hidden_size"],
                patch_size=vision.get("patch_size", 14),
                temporal_patch_size=vision.get("temporal_patch_size", 2),
                in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
                merge_size=vision.get("spatial_merge_size", 2),
            ),
            text=TextArch(
                vocab=text["vocab_size"],
                dim=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
                hidden=text["intermediate_size"],
                rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
                mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
                norm_eps=text.get("rms_norm_eps", 1e-6),
                tied=bool(text.get("tie_word_embeddings", False)),
            ),
            image_token_id=config.get("image_token_id", 151655),
            video_token_id=config.get("video_token_id", 151656),
            vision_start_token_id=config.get("vision_start_token_id", 151652),
            vision_end_token_id=config.get("vision_end_token_id", 151653),
        )
    except KeyError as error:
        raise UserError(f"config.json: field {error} is missing") from error


def _public_name(name: str) -> str:
    """Weight names of transformers >= 4.52 as the public checkpoints have them."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name


def _to_ours(tensor: np.ndarray, kind: str) -> np.ndarray:
    if kind in ("q", "k", "v"):
        tensor = np.split(tensor, 3)["qkv".index(kind)]
        return tensor.T
    if kind == "conv":
        return tensor.reshape(tensor.shape[0], -1).T
    return tensor.T if kind == "T" else tensor


def _is_stacked(theirs: str) -> bool:
    return "{}" in theirs


def _leaf(tree: Mapping[str, Any], path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _entries(params: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """The rows of NAMES that this model has, with its leaf."""
    for ours, theirs, kind in NAMES:
        try:
            yield ours, theirs, kind, _leaf(params, ours)
        except KeyError:  # a tied model has no head
            continue


def load_params(
    path: Path, shapes: dict[str, Any], place: Callable[[str, np.ndarray], jax.Array]
) -> dict[str, Any]:
    """Parameters of a checkpoint directory as our tree.

    `shapes` is `abstract_params(arch)`; `place(path, array)` puts one (stacked) array where it
    belongs, so that no more than one is on the host at a time. Missing or misshapen tensors are an
    error that names each; tensors that are not used are listed in a warning.
    """
    with ExitStack() as stack:
        files = {}
        for file in _weight_files(path):
            handle = stack.enter_context(safe_open(file, framework="numpy"))
            files |= {_public_name(name): (handle, name) for name in handle.keys()}  # noqa: SIM118
        _check(files, shapes, path)
        params: dict[str, Any] = {}
        for ours, theirs, kind, leaf in _entries(shapes):
            names = [theirs.format(i) for i in range(leaf.shape[0] if _is_stacked(theirs) else 1)]
            tensors = [_to_ours(files[n][0].get_tensor(files[n][1]), kind) for n in names]
            array = np.stack(tensors) if _is_stacked(theirs) else np.ascontiguousarray(tensors[0])
            *parents, last = ours.split("/")
            node = params
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = place(ours, array)
    return params


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [path / name for name in names]
    else:
        files = [path / "model.safetensors"]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{path}: weight files are missing: {', '.join(missing)}")
    return files


def _expected_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the checkpoint's tensor (one layer) from ours; "conv" with its kernel flattened."""
    if kind in ("q", "k", "v"):
        return (3 * shape[-1], *shape[:-1][::-1])
    return shape[::-1] if kind in ("T", "conv") else shape


def _check(files: Mapping[str, Any], shapes: dict[str, Any], path: Path) -> None:
    wrong, used = [], set()
    for _, theirs, kind, leaf in _entries(shapes):
        stacked = _is_stacked(theirs)
        expected = _expected_shape(kind, leaf.shape[1:] if stacked else leaf.shape)
        for i in range(leaf.shape[0] if stacked else 1):
            name = theirs.format(i)
            used.add(name)
            if name not in files:
                wrong.append(f"{name}: missing (expected {list(expected)})")
                continue
            found = tuple(files[name][0].get_slice(files[name][1]).get_shape())
            flat = (found[0], int(np.prod(found[1:]))) if kind == "conv" else found
            if flat != expected:
                wrong.append(f"{name}: shape {list(found)}, expected {list(expected)}")
    if wrong:
        lines = "\n  ".join(dict.fromkeys(wrong))
        raise UserError(f"{path}: the weights do not fit config.json:\n  {lines}")
    unused = sorted(set(files) - used)
    if unused and unused != ["lm_head.weight"]:  # a tied head saved twice is the same tensor
        shown = ", ".join(unused[:10]) + (", .." if len(unused) > 10 else "")
        warnings.warn(f"{path}: {len(unused)} tensors are not used: {shown}", stacklevel=3)


def export_tensors(params: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor under the public names, one stacked parameter at a time."""
    for ours, theirs, kind, leaf in _entries(params):
        if kind in ("k", "v"):
            continue  # written with q
        parts = [np.asarray(jax.device_get(leaf))]
        if kind == "q":
            parent, last = ours.rsplit("q/", 1)
            parts += [np.asarray(_leaf(params, f"{parent}{x}/{last}")) for x in "kv"]
        if not _is_stacked(theirs):
            parts = [part[None] for part in parts]
        for i in range(parts[0].shape[0]):
            tensor = np.concatenate([part[i].T for part in parts])
            if kind == "=":
                tensor = parts[0][i]
            yield theirs.format(i), np.ascontiguousarray(tensor)


def save_params(
    path: Path, params: dict[str, Any], config: dict[str, Any], shard_bytes: int = 4 * 2**30
) -> None:
    """config.json and safetensors (an index where more than one file is needed)."""
    arch = arch_from_config(config)
    kernel = (arch.vision.in_channels, arch.vision.temporal_patch_size) + (
        arch.vision.patch_size,
    ) * 2
    path.mkdir(parents=True, exist_ok=True)
    for stale in path.glob("model*.safetensors*"):
        stale.unlink()
    shards: list[list[str]] = []
    shard: dict[str, np.ndarray] = {}
    total = 0

    def flush():
        save_file(shard, path / f"part-{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    dtype = None
    for name, tensor in export_tensors(params):
        if name == "visual.patch_embed.proj.weight":
            tensor = tensor.reshape(-1, *kernel)
        dtype = tensor.dtype
        if shard and sum(x.nbytes for x in shard.values()) + tensor.nbytes > shard_bytes:
            flush()
        shard[name] = tensor
        total += tensor.nbytes
    flush()
    _name_shards(path, shards, total)
    names = {"dtype": str(dtype)} if "dtype" in config else {"torch_dtype": str(dtype)}
    (path / "config.json").write_text(json.dumps({**config, **names}, indent=2) + "\n")


def _name_shards(path: Path, shards: list[list[str]], total: int) -> None:
    """Gives the parts their final names, which hold their number."""
    count = len(shards)
    weight_map = {}
    for i, names in enumerate(shards):
        final = "model.safetensors"
        if count > 1:
            final = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        (path / f"part-{i}.safetensors").rename(path / final)
        weight_map |= dict.fromkeys(names, final)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
