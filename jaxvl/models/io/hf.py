# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints in and out: config and safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxvl.errors import UserError
from jaxvl.models.arch import Arch, TextArch, VisionArch
from jaxvl.models.io.names import (
    entries,
    export_tensors,
    is_stacked,
    public_name,
    read_part,
    stored_shape,
)

# Of each family: the activation of the tower's MLPs.
FAMILIES = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu"}
FLOATS = ("BF16", "F16", "F32", "F64")
ALIGNMENT = 64  # bytes; an array that begins so becomes a CPU device's without a copy
ROWS_AT_ONCE = 4096


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
    if family not in FAMILIES:
        raise UserError(
            f"model_type {family!r} is not supported; supported: {', '.join(FAMILIES)} "
            "(Qwen2-VL and Qwen2.5-VL)"
        )
    nested = config.get("text_config") or {}
    text = {**config, **nested}
    _refuse_what_differs(family, text, config)
    try:
        return Arch(
            family=family,
            vision=_vision_arch(family, config["vision_config"]),
            text=_text_arch(text, tied=any(c.get("tie_word_embeddings") for c in (config, nested))),
            image_token_id=config.get("image_token_id", 151655),
            video_token_id=config.get("video_token_id", 151656),
            vision_start_token_id=config.get("vision_start_token_id", 151652),
            vision_end_token_id=config.get("vision_end_token_id", 151653),
        )
    except KeyError as error:
        raise UserError(f"config.json: field {error} is missing") from error


def _refuse_what_differs(family: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """UserError where a field asks for what neither family's public models do."""
    vision, rope = config.get("vision_config") or {}, _rope(text)
    supported = {
        "rope type": (rope.get("rope_type", rope.get("type", "default")), ("default", "mrope")),
        "text_config.model_type": (text["model_type"], (family, f"{family}_text")),
        "hidden_act": (text.get("hidden_act", "silu"), ("silu",)),
        "vision_config.hidden_act": (
            vision.get("hidden_act", FAMILIES[family]),
            (FAMILIES[family],),
        ),
        "use_sliding_window": (bool(text.get("use_sliding_window")), (False,)),
        "quantization_config": (config.get("quantization_config"), (None,)),
    }
    for name, (found, expected) in supported.items():
        if found not in expected:
            raise UserError(
                f"config.json: {name} {found!r} is not supported for {family}; supported: "
                + ", ".join(str(value).lower() for value in expected)
            )


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    return text.get("rope_scaling") or text.get("rope_parameters") or {}


def _vision_arch(family: str, vision: Mapping[str, Any]) -> VisionArch:
    depth = vision["depth"]
    if family == "qwen2_vl":
        sizes = {
            "dim": vision["embed_dim"],
            "hidden": int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
            "out_dim": vision["hidden_size"],
        }
        full = range(depth)
    else:
        sizes = {
            "dim": vision["hidden_size"],
            "hidden": vision["intermediate_size"],
            "out_dim": vision["out_hidden_size"],
        }
        full = vision["fullatt_block_indexes"]
    return VisionArch(
        **sizes,
        depth=depth,
        heads=vision["num_heads"],
        gated=family != "qwen2_vl",
        full_attention=tuple(block in full for block in range(depth)),
        patch_size=vision.get("patch_size", 14),
        temporal_patch_size=vision.get("temporal_patch_size", 2),
        in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
        merge_size=vision.get("spatial_merge_size", 2),
        rope_theta=_rope(vision).get("rope_theta", 10_000.0),
    )


def _text_arch(text: Mapping[str, Any], tied: bool) -> TextArch:
    rope = _rope(text)
    return TextArch(
        vocab=text["vocab_size"],
        dim=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
        hidden=text["intermediate_size"],
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
        norm_eps=text.get("rms_norm_eps", 1e-5),
        tied=tied,
    )


class Stored(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors has it: "BF16"


def load_params(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a checkpoint directory as a tree like `wanted`.

    Its leaves (`jax.ShapeDtypeStruct`) say the shape, dtype and sharding of each. What a device
    does not hold is not read for it, and beside what has been placed no more than one (stacked)
    parameter is on the host. Missing or misshapen tensors are an error that names each; those that
    are not used are listed in a warning.
    """
    tensors = _find_tensors(path)
    _check(tensors, wanted, path)
    params: dict[str, Any] = {}
    for ours, theirs, kind, leaf in entries(wanted):
        count = leaf.shape[0] if is_stacked(theirs) else 1
        stored = [tensors[theirs.format(i)] for i in range(count)]
        read = _reader(stored, is_stacked(theirs), kind, leaf.shape, leaf.dtype)
        array = jax.make_array_from_callback(leaf.shape, leaf.sharding, read)
        *parents, last = ours.split("/")
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = jax.block_until_ready(array)  # or the next would be read beside it
    return params


def _reader(
    stored: Sequence[Stored], stacked: bool, kind: str, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Reads parts of a parameter; a part that several devices hold is read once."""
    done: dict[tuple, np.ndarray] = {}

    def read(at: tuple[slice, ...]) -> np.ndarray:
        bounds = tuple(part.indices(size)[:2] for part, size in zip(at, shape, strict=True))
        if bounds not in done:
            array = _empty([stop - start for start, stop in bounds], dtype)
            rows, inner = (array, 1) if stacked else (array[None], 0)
            for row, tensor in zip(rows, stored[at[0]] if stacked else stored, strict=True):
                # Opened for each tensor: what was read does not stay mapped.
                with safe_open(tensor.file, framework="numpy") as file:
                    part = file.get_slice(tensor.name)
                    # In another dtype before another order: it is faster so.
                    part = read_part(part, kind, shape[inner:], at[inner:])
                    row[...] = part.astype(dtype, copy=False)
            done[bounds] = array
        return done[bounds]

    return read


def _empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    space = np.empty(size + ALIGNMENT, np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    return space[start : start + size].view(dtype).reshape(shape)


def _find_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint directory by its public name."""
    found = {}
    for file in _weight_files(path):
        with safe_open(file, framework="numpy") as handle:
            for name in handle.keys():  # noqa: SIM118
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                found[public_name(name)] = Stored(file, name, shape, part.get_dtype())
    return found


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


def _check(tensors: Mapping[str, Stored], wanted: dict[str, Any], path: Path) -> None:
    """UserError unless every tensor that `wanted` needs is there as it should be."""
    wrong, used = [], set()
    for _, theirs, kind, leaf in entries(wanted):
        stacked = is_stacked(theirs)
        expected = stored_shape(kind, leaf.shape[1:] if stacked else leaf.shape)
        for i in range(leaf.shape[0] if stacked else 1):
            name = theirs.format(i)
            used.add(name)
            if name not in tensors:
                wrong.append(f"{name}: missing (expected {list(expected)})")
                continue
            found = tensors[name]
            flat = found.shape
            if kind == "conv":
                flat = (flat[0], int(np.prod(flat[1:])))
            if flat != expected:
                wrong.append(f"{name}: shape {list(found.shape)}, expected {list(expected)}")
            if found.dtype not in FLOATS:
                wrong.append(f"{name}: stored as {found.dtype}, expected {', '.join(FLOATS)}")
    if wrong:
        lines = "\n  ".join(dict.fromkeys(wrong))
        raise UserError(f"{path}: the weights do not fit config.json:\n  {lines}")
    unused = set(tensors) - used
    if "lm_head.weight" in unused:
        _check_tied(tensors, path)
        unused.remove("lm_head.weight")
    if unused:
        shown = ", ".join(sorted(unused))
        warnings.warn(f"{path}: {len(unused)} tensors are not used: {shown}", stacklevel=4)


def _check_tied(tensors: Mapping[str, Stored], path: Path) -> None:
    """UserError unless a tied head that was saved all the same is the embedding."""
    embed, head = (tensors[name] for name in ("model.embed_tokens.weight", "lm_head.weight"))
    with (
        safe_open(embed.file, framework="numpy") as one,
        safe_open(head.file, framework="numpy") as other,
    ):
        a, b = one.get_slice(embed.name), other.get_slice(head.name)
        vocab = embed.shape[0]
        pieces = (slice(i, min(i + ROWS_AT_ONCE, vocab)) for i in range(0, vocab, ROWS_AT_ONCE))
        same = embed.shape == head.shape and all(np.array_equal(a[at], b[at]) for at in pieces)
    if not same:
        raise UserError(
            f"{path}: config.json says tie_word_embeddings, but lm_head.weight is not "
            "model.embed_tokens.weight; set it to false to use both, or take the head out"
        )


def save_params(
    path: Path, params: dict[str, Any], config: dict[str, Any], shard_bytes: int = 4 * 2**30
) -> None:
    """config.json and safetensors (an index where more than one file is needed).

    All processes call it, and the first writes.
    """
    if jax.process_index():
        for _ in export_tensors(params):
            pass  # what this process holds goes to the first
        return
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
    named = config if "dtype" in config else {"torch_dtype": ""} | config
    saved = _with_dtype(named, str(dtype))
    (path / "config.json").write_text(json.dumps(saved, indent=2) + "\n")


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with `dtype` wherever it or a config nested in it names one."""
    saved = {}
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            value = dtype
        saved[key] = _with_dtype(value, dtype) if isinstance(value, dict) else value
    return saved


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
