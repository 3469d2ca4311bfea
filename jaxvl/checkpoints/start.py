# SPDX-License-Identifier: Apache-2.0
"""The model that a run starts from."""

from __future__ import annotations

import dataclasses

import jax
from jax.sharding import Mesh

from jaxvl.config import Model
from jaxvl.models import finite, partition
from jaxvl.models.qwen_vl import to_compute_dtype
from jaxvl.vlm import VLM, load


def start_model(model: Model, mesh: Mesh) -> VLM:
    """The model that a run starts from, without its adapters."""
    wide = "float32" if model.train else model.dtype
    pixels = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    vlm = load(model.path, wide, mesh, float32_head=model.float32_head, **pixels)
    with jax.set_mesh(mesh):
        cure = "train from another checkpoint"
        finite.check(vlm.params, f"model.path {model.path}", cure)
    frozen = partition.partition(vlm.params, model.train)[1]
    frozen = to_compute_dtype(frozen, model.dtype, vlm.config.text)
    return dataclasses.replace(vlm, params=partition.combine(vlm.params, frozen), dtype=model.dtype)
