# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints in and out: safetensors."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxvl.errors import UserError
from jaxvl.models import finite
from jaxvl.models.io.hf_config import arch_from_config, read_config  # noqa: F401
from jaxvl.models.io.names import (
    entries,
    export_tensors,
    is_stacked,
    public_name,
    read_part,
    stored_shape,
)
from jaxvl.models.io.sound import check_weights

FLOATS = ("BF16", "F16", "F32", "F64")
ALIGNMENT = 64  # bytes; an array that begins so becomes a CPU device's without a copy
ROWS_AT_ONCE = 4096
SHOWN = 100  # tensors that a message names


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
) -> Callable[..., np.ndarray]:
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
    found: dict[str, Stored] = {}
    check_weights(path)
    for file in _weight_files(path):
        with safe_open(file, framework="numpy") as handle:
            for name in handle.keys():  # noqa: SIM118
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                stored = Stored(file, name, shape, part.get_dtype())
                other = found.setdefault(public_name(name), stored)
                if other is not stored:
                    raise UserError(
                        f"{file}: the tensor {name} is in {other.file.name} too (as {other.name}), "
                        "and which of them is meant is not said; take the files of one checkpoint"
                    )
    return found


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [path / name for name in names]
    else:
        files = [path / "model.safetensors"]
    missing = [str(file) for file in files if not file.is_file()]
    old = sorted(file.name for file in path.glob("*.bin"))
    if missing and (old or any(path.glob("*.bin.index.json"))):
        raise UserError(
            f"{path}: no {files[0].name}, and {', '.join(old[:3]) or 'weights'} of PyTorch's "
            "pickle format, which runs what is in it and is not read; write safetensors with "
            "transformers, on a machine that has torch: AutoModelForImageTextToText."
            f"from_pretrained({str(path)!r}).save_pretrained(OUT), and copy the tokenizer's and "
            "processor's files to OUT"
        )
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
        each = list(dict.fromkeys(wrong))
        lines = "\n  ".join(each[:SHOWN])
        more = f"\n  and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
        raise UserError(f"{path}: the weights do not fit config.json:\n  {lines}{more}")
    unused = set(tensors) - used
    if "lm_head.weight" in unused:
        _check_tied(tensors, path)
        unused.remove("lm_head.weight")
    _check_layers(unused, wanted, path)
    if unused:
        shown = ", ".join(sorted(unused))
        warnings.warn(f"{path}: {len(unused)} tensors are not used: {shown}", stacklevel=4)


def _check_layers(unused: set[str], wanted: dict[str, Any], path: Path) -> None:
    """UserError where there are more layers than config.json says: a model without its last ones
    answers, and is another model."""
    known = {theirs for _, theirs, _, _ in entries(wanted) if is_stacked(theirs)}
    beyond = {name for name in unused if re.sub(r"\.\d+\.", ".{}.", name, count=1) in known}
    if beyond:
        field = {"visual": "vision_config.depth"}.get(min(beyond).split(".")[0])
        raise UserError(
            f"{path}: the weights have layers that config.json leaves out, among {len(beyond)} "
            f"tensors {min(beyond)}; expected as many as {field or 'num_hidden_layers'} says: take "
            "both from one checkpoint"
        )


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

    All processes call it, and the first writes. UserError where a parameter is not finite, before
    anything is written.
    """
    finite.check(params, f"saving to {path}", "this is no model: go back to an earlier checkpoint")
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
    for file in path.glob("model*.safetensors"):  # which safetensors lets its owner alone read
        shutil.copymode(path / "config.json", file)


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
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards):
        final = "model.safetensors"
        if count > 1:
            final = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        (path / f"part-{i}.safetensors").rename(path / final)
        weight_map |= dict.fromkeys(names, final)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
