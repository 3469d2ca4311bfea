# SPDX-License-Identifier: Apache-2.0
"""Which setting makes what takes memory smaller.

Settings that change what is learnt (a step's prompts, the sizes of images and texts) come last.
"""

from __future__ import annotations

import dataclasses
import re

from jaxvl.config import Config, SFTConfig
from jaxvl.models.arch import Arch
from jaxvl.plan.program import LOOPS, Sizes

_SPLIT = "mesh.fsdp or mesh.tensor"


@dataclasses.dataclass(frozen=True)
class Of:
    """Of which run and program an array is."""

    cfg: Config | SFTConfig
    arch: Arch
    mesh: dict[str, int]
    program: str


def for_kind(kind: str, prompts: str) -> str:
    """By what is held, in the words of `estimate.held`; "" where nothing but fewer bytes a number
    would help. `prompts` is the field that says how many prompts a step has."""
    return {
        "parameters": f"{_SPLIT}; fewer parts in model.train",
        "frozen": _SPLIT,
        "moments": f"{_SPLIT}; fewer parts in model.train, or adapters (model.lora)",
        "reference": f"{_SPLIT}; there is none where grpo.beta is 0",
        "batch": f"mesh.fsdp or mesh.data; if nothing else helps {prompts} or data.patch_buckets",
        "weights for decoding": "sampling.tensor or mesh.tensor: they are split over nothing else",
        "moved parameters": "sampling.tensor: they are split over nothing else",
        "moved batch": "sampling.tensor, fewer of which share a row",
        "caches of prompts": "mesh.tensor, mesh.fsdp or sampling.cache=int8; if nothing else helps "
        f"{prompts} or data.prompt_buckets",
        "completions": "sampling.slots or sampling.cache=int8; if nothing else helps "
        "sampling.max_new_tokens",
        "tables of sampling.ban": "fewer or shorter words in sampling.ban",
    }.get(kind, "")


def for_array(shape: str, of: Of) -> str:
    """By the sizes of the axes of an array that a program makes ("bf16[1,2048,8960]"); "" where
    nothing is recognised."""
    axes = {int(size) for size in re.findall(r"\d+", shape.partition("[")[2].partition("]")[0])}
    sizes, text, vision = Sizes.of(of.cfg), of.arch.text, of.arch.vision
    batch = of.cfg.batch
    vocab = {text.vocab, text.vocab // of.mesh["tensor"]}
    own = sizes.completions * sizes.length
    patches = {sizes.patches, sizes.patches // vision.merge_size**2}
    if axes & vocab:
        if axes - vocab <= {text.dim, text.dim // of.mesh["fsdp"], 1}:
            return "mesh.tensor: the table of tokens is split over it"
        if of.program in ("prefill", "wave", *LOOPS):
            return f"mesh.tensor; if nothing else helps {batch.prompts_field}: logits"
        return f"{batch.part}.logprob_chunk or mesh.tensor: logits"
    if of.program in ("grow", *LOOPS):
        if sizes.length in axes:
            return for_kind("completions", batch.prompts_field)
        if sizes.tokens in axes:
            return for_kind("caches of prompts", batch.prompts_field)
        weights = for_kind("weights for decoding", batch.prompts_field)
        return weights if text.dim in axes else ""
    micro = "" if of.program in ("prefill", "wave") else f"{batch.part}.micro_batches, "
    if axes & {own, own + sizes.tokens}:
        return f"{micro}or {batch.row_field}: activations of rows"
    if axes & patches:
        return f"{micro}data.patch_buckets or model.max_pixels: the tower"
    if sizes.tokens in axes:
        return f"{micro}data.prompt_buckets: prompts"
    if axes & {text.layers, vision.depth}:
        return f"{_SPLIT}: weights, moments and gradients"
    return ""
