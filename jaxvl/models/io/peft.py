# SPDX-License-Identifier: Apache-2.0
"""Adapters out in PEFT's format, for `PeftModel.from_pretrained` and what serves such files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from jaxvl.config import LoRA
from jaxvl.distributed.mesh import fetch
from jaxvl.models import finite, lora
from jaxvl.models.io.names import NAMES

_THEIRS = {ours: (theirs.removesuffix(".weight"), kind) for ours, theirs, kind in NAMES}
_FUSED = "qkv"  # the tower's three projections, one module there


def save(path: Path, params: dict[str, Any], cfg: LoRA, base: str | None = None) -> None:
    """adapter_config.json and adapter_model.safetensors; `base` is what they were trained beside.
    All processes call it, the first writes.

    Modules have the names of transformers >= 4.52. The tower's q, k and v become one adapter of
    their joint rank, whose b is zero but for the blocks of each.
    """
    finite.check(params, f"saving to {path}", "go back to an earlier checkpoint")
    flat = traverse_util.flatten_dict(params, sep="/")
    modules: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for ours in lora.targets(params, cfg):
        theirs, kind = _THEIRS[f"{ours}/w"]
        a, b = (fetch(flat[f"{ours}/lora/{leaf}"]).astype(np.float32) for leaf in "ab")
        modules.setdefault(_module(theirs), {})[kind] = a, b
    tensors, fused = {}, 0
    for module, pairs in modules.items():
        if "T" not in pairs:
            fused = len(pairs)
        a, b = pairs["T"] if "T" in pairs else _join(pairs)
        for name, stacked in (("lora_A", a), ("lora_B", b)):
            for i, x in enumerate(stacked if "{}" in module else stacked[None]):
                key = f"base_model.model.{module.format(i)}.{name}.weight"
                tensors[key] = np.ascontiguousarray(x.T)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": cfg.rank,
        "lora_alpha": cfg.alpha,
        "lora_dropout": cfg.dropout,
        "target_modules": "|".join(re.escape(m).replace(r"\{\}", r"\d+") for m in modules),
        "rank_pattern": {"attn.qkv": fused * cfg.rank} if fused else {},
        "alpha_pattern": {"attn.qkv": fused * cfg.alpha} if fused else {},
        "bias": "none",
        "inference_mode": True,
    }
    if jax.process_index():
        return
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copymode(path / "adapter_config.json", path / "adapter_model.safetensors")


def _module(name: str) -> str:
    """A public checkpoint's module as transformers >= 4.52 names it."""
    if name.startswith("visual."):
        return f"model.{name}"
    return "model.language_model." + name.removeprefix("model.")


def _join(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The adapters of q, k and v as one: a [L, in, n rank], b [L, n rank, 3 out]."""
    a = np.concatenate([pair[0] for pair in pairs.values()], axis=-1)
    L, rank, out = next(iter(pairs.values()))[1].shape
    b = np.zeros((L, a.shape[-1], len(_FUSED) * out), np.float32)
    for i, (kind, (_, own)) in enumerate(pairs.items()):
        at = _FUSED.index(kind) * out
        b[:, i * rank : (i + 1) * rank, at : at + out] = own
    return a, b
