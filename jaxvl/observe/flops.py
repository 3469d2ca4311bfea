# SPDX-License-Identifier: Apache-2.0
"""What a model has to compute for a batch, counted from its shape: no implementation can do less.

A product of a weight with n tokens is 2 n d_in d_out operations (a multiplication and an addition
each), and a pair of a query and a key is 4 D in every layer (its score, and its share of the
values). A prompt and its images are counted once, however many completions it has; a token sees
itself and what is before it; padding is not counted, nor what is computed again to save memory.
Norms, softmax, rotations and the search in the distribution are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from jaxvl.models.arch import Arch, TextArch, VisionArch

# Dense bfloat16 products, FLOP/s of one jax device, from the makers' data sheets. The first name
# that a device's kind begins with counts.
_PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA A100": 312e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a batch holds: the sizes of its images and texts without their padding."""

    pictures: Sequence[int]  # patches of each image
    windows: Sequence[int]  # patches of each attention window (an image where the tower has none)
    prompts: Sequence[int]  # [P] tokens of each prompt
    completions: np.ndarray  # [P, g] tokens of its completions

    @classmethod
    def full(cls, rows: int, tokens: int, patches: int, completions: int, length: int) -> Work:
        """Rows that are full to the last token, one image each, seen whole by every block.

        A row has `completions` completions of `length` tokens, which counts its prompt once.
        """
        pictures = [patches] * rows if patches else []
        own = np.full((rows, completions), length)
        return cls(pictures, pictures, [tokens] * rows, own)


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one forward pass by what is multiplied."""

    weights: float  # activations with weights
    attention: float  # activations with activations

    @property
    def total(self) -> float:
        return self.weights + self.attention


def tower(arch: VisionArch, work: Work) -> Flops:
    """The images through the blocks, the merger left out."""
    n = sum(work.pictures)
    block = 4 * arch.dim**2 + (3 if arch.gated else 2) * arch.dim * arch.hidden
    full_attention = sum(arch.full_attention)
    pairs = full_attention * _squares(work.pictures) + (arch.depth - full_attention) * _squares(
        work.windows
    )
    weights = 2.0 * n * (arch.patch_values * arch.dim + arch.depth * block)
    return Flops(weights, 4.0 * arch.dim * pairs)


def merger(arch: VisionArch, work: Work) -> Flops:
    """Patches to the text model's tokens."""
    merged, width = sum(work.pictures) / arch.merge_size**2, arch.dim * arch.merge_size**2
    return Flops(2.0 * merged * (width**2 + width * arch.out_dim), 0.0)


def prefill(arch: TextArch, work: Work) -> Flops:
    """The prompts through the decoder, each once."""
    n = np.asarray(work.prompts, np.float64)
    return _decoder(arch, n.sum(), (n * (n + 1) / 2).sum())


def decode(arch: TextArch, work: Work) -> Flops:
    """The completions through the decoder and the head: a token sees its prompt and its past."""
    c = np.asarray(work.completions, np.float64)
    pairs = c * np.asarray(work.prompts, np.float64)[:, None] + c * (c + 1) / 2
    through = _decoder(arch, c.sum(), pairs.sum())
    return Flops(through.weights + 2.0 * c.sum() * arch.vocab * arch.dim, through.attention)


def forward(arch: Arch, work: Work) -> float:
    """One pass over prompts and completions: what sampling takes, and log-probabilities too."""
    return sum(part.total for part in _parts(arch, work).values())


def update(arch: Arch, work: Work, trains: Collection[str], adapted: Collection[str] = ()) -> float:
    """Forward and backward pass where the parts in `trains` ("tower", "merger", "text") change, and
    adapters beside those in `adapted`.

    Backward, a part takes a forward pass's products of weights once more for the gradients of its
    weights, if it trains, and once more for those of its inputs, if anything in it or before it
    changes (attention's products twice then). With everything trained that is three forward passes.
    The adapters' own products are left out.
    """
    total, reached = 0.0, False
    for name, flops in _parts(arch, work).items():
        reached = reached or name in trains or name in adapted
        total += flops.weights * (1 + reached + (name in trains))
        total += flops.attention * (1 + 2 * reached)
    return total


def peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s that a jax device can reach at best; None where it is not known.

    Known for bfloat16 alone: what float32 products cost depends on their precision.
    """
    if dtype != "bfloat16":
        return None
    return next((p for name, p in _PEAKS.items() if device_kind.startswith(name)), None)


def _parts(arch: Arch, work: Work) -> dict[str, Flops]:
    """Forward passes of the parts, in the order in which activations run through them."""
    prompts, completions = prefill(arch.text, work), decode(arch.text, work)
    text = Flops(prompts.weights + completions.weights, prompts.attention + completions.attention)
    return {"tower": tower(arch.vision, work), "merger": merger(arch.vision, work), "text": text}


def _decoder(arch: TextArch, tokens: float, pairs: float) -> Flops:
    weights = 2.0 * tokens * arch.layers * _layer(arch)
    return Flops(weights, 4.0 * pairs * arch.layers * arch.heads * arch.head_dim)


def _layer(arch: TextArch) -> int:
    """Weights of a decoder layer."""
    q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    return arch.dim * (2 * q + 2 * kv + 3 * arch.hidden)


def _squares(sizes: Sequence[int]) -> float:
    return float((np.asarray(sizes, np.float64) ** 2).sum())
