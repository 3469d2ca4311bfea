# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a Hugging Face checkpoint can be what they say, before any is read: a broken
one is a message that names it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from jaxvl.data import strict_json
from jaxvl.errors import UserError

AGAIN = "fetch the checkpoint again, or take it from a copy"
MOST = 2**31  # of any size in a config: no model has as many of anything
MOST_LAYERS = 10_000  # each of which has names that are looked for one by one
_BROKEN = (ValueError, KeyError, TypeError, AttributeError)  # of JSON of another form
_HEADER = 100_000_000  # bytes, as safetensors has it
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16}
_BITS |= {"F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}
_TEXT = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
    "num_key_value_heads"
).split()
_VISION = (
    "depth embed_dim hidden_size num_heads intermediate_size out_hidden_size patch_size "
    "temporal_patch_size in_channels in_chans spatial_merge_size window_size"
).split()
_LAYERS = ("num_hidden_layers", "depth")
_IDS = "image_token_id video_token_id vision_start_token_id vision_end_token_id".split()


def check_config(file: Path, config: Any) -> None:
    """UserError where a field that a model is made of is of another type, or no size at all."""
    if not isinstance(config, dict):
        raise _wrong(file, "", config, "an object")
    parts = {"": config}
    for name in ("text_config", "vision_config", "rope_scaling", "rope_parameters"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            raise _wrong(file, name, value, "an object")
        parts[f"{name}."] = value or {}
    if not isinstance(config.get("model_type", ""), str):
        raise _wrong(file, "model_type", config["model_type"], "a word")
    for prefix in ("", "text_config."):
        _check_text(file, prefix, parts[prefix])
    vision = parts["vision_config."]
    for name in _VISION:
        _check_size(file, f"vision_config.{name}", vision.get(name))
    _check_number(file, "vision_config.mlp_ratio", vision.get("mlp_ratio"))
    blocks = vision.get("fullatt_block_indexes")
    if blocks is not None and not _ints(blocks, 0):
        raise _wrong(file, "vision_config.fullatt_block_indexes", blocks, "numbers of blocks")
    for prefix in ("rope_scaling.", "rope_parameters."):
        _check_rope(file, prefix, parts[prefix])


def _check_text(file: Path, prefix: str, text: Mapping[str, Any]) -> None:
    for name in _TEXT:
        _check_size(file, prefix + name, text.get(name))
    for name in ("rms_norm_eps", "rope_theta"):
        _check_number(file, prefix + name, text.get(name))
    for name in _IDS:
        value = text.get(name)
        if value is not None and not _ints([value], 0):
            raise _wrong(file, prefix + name, value, "the number of a token")
    for name in ("rope_scaling", "rope_parameters"):
        rope = text.get(name)
        if rope is not None and not isinstance(rope, dict):
            raise _wrong(file, prefix + name, rope, "an object")
        _check_rope(file, f"{prefix}{name}.", rope or {})


def _check_rope(file: Path, prefix: str, rope: Mapping[str, Any]) -> None:
    _check_number(file, f"{prefix}rope_theta", rope.get("rope_theta"))
    sections = rope.get("mrope_section")
    if sections is not None and not (_ints(sections, 0) and len(sections) == 3):
        raise _wrong(file, f"{prefix}mrope_section", sections, "three sizes")
    for name in ("type", "rope_type"):
        if not isinstance(rope.get(name, ""), str):
            raise _wrong(file, prefix + name, rope[name], "a word")


def _check_size(file: Path, name: str, value: Any) -> None:
    if value is not None and not _ints([value], 1):
        raise _wrong(file, name, value, "a whole number from 1")
    if value is not None and name.endswith(_LAYERS) and value > MOST_LAYERS:
        raise _wrong(file, name, value, f"a whole number from 1 to {MOST_LAYERS}")


def _check_number(file: Path, name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value) and value > 0):
        raise _wrong(file, name, value, "a number above 0")


def _ints(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(
        isinstance(x, int) and not isinstance(x, bool) and least <= x < MOST for x in values
    )


def _wrong(file: Path, name: str, value: Any, expected: str) -> UserError:
    what = f"{name} is " if name else "holds "
    shown = json.dumps(value) if _plain(value) else type(value).__name__
    return UserError(f"{file}: {what}{shown:.60}; expected {expected}; {AGAIN}")


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def check_weights(path: Path) -> list[Path]:
    """The weight files of a checkpoint directory; UserError where one cannot be read as one."""
    index = path / "model.safetensors.index.json"
    names = _names(index) if index.is_file() else ["model.safetensors"]
    files = [path / name for name in names]
    for file in files:
        if file.is_file():  # what is missing is told with what else there is
            check_safetensors(file)
    return files


def _names(index: Path) -> list[str]:
    """The files that an index names."""
    try:
        found = strict_json.loads(index.read_bytes())
        names = found["weight_map"].values()
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError("weight_map names no files")
    except (*_BROKEN, OSError, RecursionError) as error:
        raise UserError(
            f"{index} is no index of weights ({type(error).__name__}: {error}); expected an object "
            f"whose weight_map gives each tensor a file; {AGAIN}"
        ) from None
    for name in names:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\0" in name or not place.parts:
            raise UserError(
                f"{index} names {name!r}; expected files beside it: one elsewhere is not read"
            )
    return sorted(set(names))


def check_safetensors(file: Path) -> None:
    """UserError unless a file is what its own header says: names, sizes, and as many bytes."""
    try:
        tensors, start, size = _header(file)
        ends = 0
        for name, (begin, end) in sorted(tensors.items(), key=lambda item: item[1]):
            if begin != ends:
                raise ValueError(
                    f"tensor {name} begins at byte {begin}, the one before ends {ends}"
                )
            ends = end
        if start + ends == size:
            with safe_open(file, framework="numpy"):  # what it knows of names and types beside that
                pass
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    except (*_BROKEN, RecursionError, struct.error, SafetensorError) as error:
        raise UserError(f"{file} is no whole safetensors file: {error}; {AGAIN}") from None
    if start + ends != size:
        raise UserError(
            f"{file} has {size} bytes; expected {start + ends} by its header: it was cut short, or "
            f"is not what was written; {AGAIN}"
        )


def _header(file: Path) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Where each tensor begins and ends, where the first one begins, and the file's size."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        first = handle.read(8)
        if len(first) < 8:
            raise ValueError(f"{size} bytes, expected a header")
        (length,) = struct.unpack("<Q", first)
        if not 2 <= length <= min(_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        said = strict_json.loads(handle.read(length))
    if not isinstance(said, dict):
        raise ValueError("its header is no object")
    said.pop("__metadata__", None)
    return {name: _span(name, tensor) for name, tensor in said.items()}, 8 + length, size


def _span(name: str, tensor: Mapping[str, Any]) -> tuple[int, int]:
    shape, dtype, (begin, end) = tensor["shape"], tensor["dtype"], tensor["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError(f"tensor {name} lies from {begin!r} to {end!r}")
    if not isinstance(shape, list) or not all(isinstance(x, int) and x >= 0 for x in shape):
        raise ValueError(f"tensor {name} has the shape {shape!r}")
    if dtype in _BITS and end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise ValueError(f"tensor {name} of {dtype}{shape} lies in {end - begin} bytes")
    return begin, end
