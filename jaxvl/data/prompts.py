# SPDX-License-Identifier: Apache-2.0
"""From prompts and images to the integer geometry and the arrays that a model is given.

T tokens of a prompt, P patches, M = P / merge_size ** 2 merged patches (one an image token), E
values a patch, R rows of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.data import chat, hf_files, places
from jaxvl.data.chat import Messages
from jaxvl.data.example import BadRow
from jaxvl.data.geometry import Grid, lay_out, mrope_positions
from jaxvl.data.image import see
from jaxvl.data.image_settings import (
    BYTES,
    ImageSettings,
    read_config,
    read_settings,
)
from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
Size = tuple[int, int]  # (width, height) in pixels
# What the families were taught to write boxes in: thousandths of the sides, pixels of what is seen.
BOX_FRAMES = {"qwen2_vl": "thousand", "qwen2_5_vl": "processed"}


class PromptTooLong(UserError):
    """A prompt that does not fit the largest bucket; it is never cut."""


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """One prompt with its images, ready to be collated; patches of all images, one by one."""

    text: str  # as rendered: one <|image_pad|> an image
    tokens: np.ndarray  # int32 [T], image pads repeated once a merged patch
    positions_3T: np.ndarray  # int32, (t, h, w) of M-RoPE
    next_position: int  # of the first completion token
    slots: np.ndarray  # int32 [T], index among the merged patches; -1: a text token
    patches_PE: np.ndarray  # in `ImageSettings.dtype`, those of an attention window side by side
    coords_P2: np.ndarray  # int32, (h, w) of each patch in its image
    segments: np.ndarray  # int32 [P], 1, 2, .. the image of a patch
    windows: np.ndarray  # int32 [P], 1, 2, .. its window; the image where there are no windows
    grids: tuple[Grid, ...]
    image_sizes: tuple[Size, ...]  # of the images as they were given, upright
    processed_sizes: tuple[Size, ...]  # of what the model sees
    pixels: np.ndarray | None = None  # `ImageSettings.pixels` of patches that are bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Processor:
    """A checkpoint's tokenizer, chat template, special ids and image settings."""

    tokenizer: Any  # a transformers tokenizer
    image: ImageSettings
    window: int  # side of the tower's attention windows in merged patches; 0: it has none
    box_frame: str  # how the family writes boxes, see `jaxvl.rewards.rules.Frames`
    chat_template: str | None
    image_token_id: int
    video_token_id: int
    pad_id: int
    stop_ids: tuple[int, ...]
    image_config: Mapping[str, Any]  # the image processor as the checkpoint had it
    generation_config: Mapping[str, Any]  # {} where the checkpoint has none

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> Processor:
        """From a checkpoint directory; the limits on pixels, where given, win over its own.

        `stop_ids` are all ids that end a text: those of generation_config.json, of config.json and
        of the tokenizer. The chat template is the one transformers' processor would take:
        processor_config.json's, else chat_template.json's, else the tokenizer's.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a directory; expected a Hugging Face checkpoint")
        config = read_json(path / "config.json")
        generation = read_json(path / "generation_config.json")
        image_config = read_config(path)
        image = read_settings(path, min_pixels, max_pixels)
        window = hf_files.window(path, config, image)
        said_ends = hf_files.said_ends(path, config, generation)
        tokenizer = hf_files.load_tokenizer(path)
        id = functools.partial(hf_files.token_id, path, tokenizer, config)
        ids = {
            "image_token_id": id("image_token_id", IMAGE_PAD),
            "video_token_id": id("video_token_id", VIDEO_PAD),
        }
        own = tokenizer.eos_token_id
        stop_ids = tuple(dict.fromkeys(said_ends if own is None else [*said_ends, own]))
        if not stop_ids:
            raise UserError(
                f"{path} names no end token; set eos_token_id in generation_config.json"
            )
        template = hf_files.chat_template(path, tokenizer)
        tokenizer.chat_template = template
        pad = tokenizer.pad_token_id
        return cls(
            tokenizer=tokenizer,
            image=image,
            window=window,
            box_frame=BOX_FRAMES.get(config.get("model_type", ""), ""),
            chat_template=template,
            pad_id=stop_ids[-1] if pad is None else pad,
            stop_ids=stop_ids,
            image_config=image_config,
            generation_config=generation,
            **ids,
        )

    def with_pixels(self, min_pixels: int | None, max_pixels: int | None) -> Processor:
        """This processor with other limits on pixels; None leaves one as it is."""
        limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        return dataclasses.replace(self, image=dataclasses.replace(self.image, **given))

    def ending(self, id: int) -> Processor:
        """This processor where the token `id` ends a text too: here, and where it is saved."""
        if id in self.stop_ids:
            return self
        stop_ids = (*self.stop_ids, id)
        generation = {**self.generation_config, "eos_token_id": list(stop_ids)}
        return dataclasses.replace(self, stop_ids=stop_ids, generation_config=generation)

    def with_dtype(self, dtype: str) -> Processor:
        """This processor for a model whose products take `dtype`: what the tower's first product
        would round is rounded before it is sent to a device."""
        return dataclasses.replace(self, image=dataclasses.replace(self.image, dtype=dtype))

    def as_bytes(self) -> Processor:
        """This processor with patches that are bytes, of which a device makes the values."""
        return dataclasses.replace(self, image=self.image.as_bytes())

    def render(self, prompt: str | Messages) -> str:
        """The text of a prompt: a string as it is, messages through the chat template."""
        if isinstance(prompt, str):
            return prompt
        if self.chat_template is None:
            raise UserError(
                "the checkpoint has no chat template; put a chat_template.jinja beside its "
                "tokenizer, or give prompts as strings"
            )
        return chat.render(self.tokenizer, prompt)

    def prepare(self, prompt: str | Messages, images: Sequence[Any]) -> tuple[str, list[Any]]:
        """The text of a prompt and its images, in order. BadRow where it has other than one
        `<|image_pad|>` an image, or says `<image>` more often than it has images."""
        images = list(images)
        if not isinstance(prompt, str):
            prompt, images = chat.with_images(prompt, images)
        text = self.render(prompt)
        pads = text.count(IMAGE_PAD)
        words = sum(not number for number in places.MARKER.findall(text))
        if pads != len(images) or words > len(images):
            said = f" and {words} {places.IMAGE}, a word that no picture stands for," * bool(words)
            raise BadRow(
                "images do not fit the text",
                f"the prompt has {pads} {IMAGE_PAD}{said} for {len(images)} images; expected one "
                "<|image_pad|> (in messages {'type': 'image'}) an image, and the images in a list "
                f"beside the prompt: {text!r:.400}",
            )
        return text, images

    def encode(self, prompt: str | Messages, images: Sequence[Any]) -> Encoded:
        """Tokens, geometry and patches of a prompt; `images` are PIL images, paths, bytes or data:
        URLs, in order, or what `image.see` made of one. Messages may hold their own (see
        `chat.with_images`).

        Token ids are those of transformers' Qwen2VLProcessor: every `<|image_pad|>` stands for one
        image and becomes as many as it has merged patches. BadRow where their numbers differ, where
        the prompt is empty or where it has a video.
        """
        text, images = self.prepare(prompt, images)
        tokens = np.array(self.tokenizer(text)["input_ids"], np.int32)
        if not len(tokens):
            raise BadRow(
                "empty prompt", "the prompt is empty; expected at least one token to continue from"
            )
        if (tokens == self.video_token_id).any():
            raise BadRow(
                "video", f"the prompt has a {VIDEO_PAD}, and video is not supported: {text!r:.400}"
            )
        is_image = tokens == self.image_token_id
        seen = [see(image, self.image) for image in images]
        grids = tuple(image.grid for image in seen)
        merge = self.image.merge_size
        # The pad is a special token, cut out before the text is split into words: repeating its id
        # equals tokenizing the text with the pad repeated.
        repeats = np.ones(len(tokens), np.int64)
        repeats[is_image] = [h * w // merge**2 for _, h, w in grids]
        tokens, is_image = np.repeat(tokens, repeats), np.repeat(is_image, repeats)
        positions_3T, next_position = mrope_positions(tokens, grids, self.image_token_id, merge)
        layout = lay_out(grids, merge, self.window)
        none_PE = np.zeros((0, self.image.patch_values), self.image.dtype)
        patches_PE = _packed([image.patches_PE for image in seen], none_PE)
        slots = np.full(len(tokens), -1, np.int32)
        slots[is_image] = layout.slots_M
        return Encoded(
            text=text,
            tokens=tokens,
            positions_3T=positions_3T,
            next_position=next_position,
            slots=slots,
            # Put in order here, so that no device moves them; without windows they are in order.
            patches_PE=patches_PE[layout.order_P] if self.window else patches_PE,
            coords_P2=layout.coords_P2,
            segments=layout.segments_P,
            windows=layout.windows_P,
            grids=grids,
            image_sizes=tuple(image.size for image in seen),
            processed_sizes=tuple(
                (w * self.image.patch_size, h * self.image.patch_size) for _, h, w in grids
            ),
            pixels=self.image.pixels() if self.image.dtype == BYTES else None,
        )

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, nothing added in front or behind. A special token that is spelled out
        in it (`<|im_end|>`) becomes its id."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.tokenizer.decode(
            [int(token) for token in tokens],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def save(self, path: str | Path) -> None:
        """Write tokenizer, chat template, image processor and generation settings into `path`.

        transformers and `from_pretrained` read them; the limits on pixels are the ones in use.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(path)
        if self.chat_template is not None:
            # older transformers and serving engines read this one, not chat_template.jinja
            _write_json(path / "chat_template.json", {"chat_template": self.chat_template})
        low, high = self.image.min_pixels, self.image.max_pixels
        limits = {
            "min_pixels": low,
            "max_pixels": high,
            "size": {"shortest_edge": low, "longest_edge": high},
        }
        _write_json(path / "preprocessor_config.json", {**self.image_config, **limits})
        if self.generation_config:
            _write_json(path / "generation_config.json", self.generation_config)


def collate(
    encoded: Sequence[Encoded],
    prompt_ids: Sequence[int],
    *,
    pad_id: int,
    prompt_bucket: int | Sequence[int],
    patch_bucket: int | Sequence[int],
    rows_per_prompt: int = 1,
    completions_per_row: int = 1,
) -> dict[str, np.ndarray]:
    """A prompt batch of R = len(encoded) * rows_per_prompt rows, those of a prompt side by side.

    A bucket is a size, or sizes of which the smallest that fits is taken. Row j of a prompt holds
    its completions from j * completions_per_row on. PromptTooLong where a prompt does not fit.

        tokens [R, T], length [R], positions [R, 3, T], next_position [R], slots [R, T],
        prompt_id [R], completion [R], coords [R, P, 2],                    int32
        segments [R, P], windows [R, P]
        patches [R, P, E]                                        as those of `encoded`
        pixels [R, 4, 3]         where patches are bytes         float32

    Padding is on the right: pad_id in tokens, -1 in slots, 0 elsewhere.
    """
    prompt_buckets = (prompt_bucket,) if isinstance(prompt_bucket, int) else tuple(prompt_bucket)
    patch_buckets = (patch_bucket,) if isinstance(patch_bucket, int) else tuple(patch_bucket)
    for e, prompt_id in zip(encoded, prompt_ids, strict=True):
        _check_fits(prompt_id, len(e.tokens), prompt_buckets, "tokens", "data.prompt_buckets")
        _check_fits(prompt_id, len(e.segments), patch_buckets, "patches", "data.patch_buckets")
    T = bucket(max(len(e.tokens) for e in encoded), prompt_buckets)
    P = bucket(max(len(e.segments) for e in encoded), patch_buckets)
    R = len(encoded) * rows_per_prompt
    batch = {
        "tokens": np.full((R, T), pad_id, np.int32),
        "length": np.zeros(R, np.int32),
        "positions": np.zeros((R, 3, T), np.int32),
        "next_position": np.zeros(R, np.int32),
        "slots": np.full((R, T), -1, np.int32),
        "prompt_id": np.repeat(np.asarray(prompt_ids, np.int32), rows_per_prompt),
        "completion": np.tile(
            np.arange(rows_per_prompt, dtype=np.int32) * completions_per_row, len(encoded)
        ),
        "patches": np.zeros((R, P, encoded[0].patches_PE.shape[1]), encoded[0].patches_PE.dtype),
        "coords": np.zeros((R, P, 2), np.int32),
        "segments": np.zeros((R, P), np.int32),
        "windows": np.zeros((R, P), np.int32),
    }
    for i, e in enumerate(encoded):
        rows = slice(i * rows_per_prompt, (i + 1) * rows_per_prompt)
        tokens, patches = len(e.tokens), len(e.segments)
        batch["tokens"][rows, :tokens] = e.tokens
        batch["length"][rows] = tokens
        batch["positions"][rows, :, :tokens] = e.positions_3T
        batch["next_position"][rows] = e.next_position
        batch["slots"][rows, :tokens] = e.slots
        batch["patches"][rows, :patches] = e.patches_PE
        batch["coords"][rows, :patches] = e.coords_P2
        batch["segments"][rows, :patches] = e.segments
        batch["windows"][rows, :patches] = e.windows
    return batch | repeated_pixels(encoded[0], R)


def repeated_pixels(encoded: Encoded, rows: int) -> dict[str, np.ndarray]:
    """`pixels` of a batch of so many rows: those of one prompt are those of all."""
    if encoded.pixels is None:
        return {}
    return {"pixels": np.repeat(encoded.pixels[None], rows, axis=0)}


def bucket(n: int, buckets: Sequence[int], name: str = "the buckets") -> int:
    """The smallest bucket of at least n; UserError (which says `name`) where there is none."""
    fitting = [size for size in buckets if size >= n]
    if not fitting:
        raise UserError(f"{n} does not fit {name} {tuple(buckets)}: add one of at least {n}")
    return min(fitting)


def step_up(n: int, least: int = 64) -> int:
    """The smallest size of at least n among 64, 96, 128, 192, 256, 384, .. (`least` is the first):
    a few for any n, and never half as much again."""
    power = least << max(0, (n - 1) // least).bit_length()
    return power * 3 // 4 if least < n <= power * 3 // 4 else power


def balanced(costs: Sequence[float], parts: int) -> list[int]:
    """An order of the indices whose `parts` equal runs have sums of costs as even as is easy.

    The dearest first, each to the part that is cheapest so far and has room. Where the number of
    costs does not divide by `parts` the order stays.
    """
    if len(costs) % parts:
        return list(range(len(costs)))
    runs: list[list[int]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        open_runs = [p for p in range(parts) if len(runs[p]) < len(costs) // parts]
        part = min(open_runs, key=lambda p: sums[p])
        runs[part].append(i)
        sums[part] += costs[i]
    return [i for run in runs for i in sorted(run)]


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple of `multiple` of at least n."""
    return -(-n // multiple) * multiple


def _check_fits(prompt_id: int, n: int, buckets: Sequence[int], what: str, field: str) -> None:
    if n > max(buckets):
        raise PromptTooLong(
            f"prompt {prompt_id} has {n} {what}, the limit is {max(buckets)}: raise {field}, lower "
            "model.max_pixels, or leave the prompt out"
        )


def _packed(arrays: list[np.ndarray], none: np.ndarray) -> np.ndarray:
    """The arrays one after the other, `none` where there are none; one alone is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([none, *arrays])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
