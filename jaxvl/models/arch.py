# SPDX-License-Identifier: Apache-2.0
"""The shape of a model: what its Hugging Face config says, as frozen dataclasses."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class VisionArch:
    """A vision tower: Qwen2-VL's, or Qwen2.5-VL's with RMS norms, gated MLPs and windows."""

    depth: int
    dim: int
    heads: int
    hidden: int  # width of the blocks' MLP
    out_dim: int  # width of the text model
    gated: bool  # RMS norms and SwiGLU; else layer norms and quick GELU
    # Of each block: whether a patch attends to its image, or to its window.
    full_attention: tuple[bool, ...]
    patch_size: int = 14
    temporal_patch_size: int = 2
    in_channels: int = 3
    merge_size: int = 2
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0

    @property
    def patch_values(self) -> int:
        """Numbers in one patch (E)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def patch_bytes(self) -> int:
        """Bytes of one patch of a still image, of which `vision.pixel_values` makes its numbers."""
        return self.in_channels * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class TextArch:
    """Qwen2's decoder with M-RoPE."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    norm_eps: float = 1e-5
    tied: bool = False
    float32_head: bool = False  # the head's product in float32 whatever the others are in

    @property
    def head_dim(self) -> int:
        """H, the width of a head."""
        return self.dim // self.heads


@dataclasses.dataclass(frozen=True)
class Arch:
    """A vision-language model: a tower, a decoder, and the tokens that join them."""

    family: str
    vision: VisionArch
    text: TextArch
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Tokens that stand for images; a policy that writes one has written nonsense."""
        return (
            self.image_token_id,
            self.video_token_id,
            self.vision_start_token_id,
            self.vision_end_token_id,
        )
