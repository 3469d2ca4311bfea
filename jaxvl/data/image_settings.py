# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint wants its images, as its image processor's file says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError

MAX_IMAGE_PIXELS = 2**26  # 8192 x 8192; a file of a few bytes can unpack into gigabytes
_MAX_SIZE = 1024  # pixels of a patch's side; also of patches that are merged, along a side
_MAX_FRAMES = 64
BYTES = "uint8"
_EDGES = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How a checkpoint wants its images; the defaults are those of transformers' Qwen2-VL.

    UserError where a field is no such number: it would fail, or be NaN, at the first image.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    rescale_factor: float = 1 / 255
    resample: int = Image.Resampling.BICUBIC
    # Of patches: "bfloat16" where the tower's products would round them so; "uint8" for the bytes
    # of the image, of which a device makes the values (`as_bytes`).
    dtype: str = "float32"

    def __post_init__(self):
        self._check_sizes()
        self._check_values()

    def _check_sizes(self) -> None:
        tops = {
            "patch_size": _MAX_SIZE,
            "merge_size": _MAX_SIZE,
            "temporal_patch_size": _MAX_FRAMES,
            "min_pixels": MAX_IMAGE_PIXELS,  # what is smaller is enlarged to so many
            "max_pixels": 2**62,
        }
        for name, top in tops.items():
            value = getattr(self, name)
            if not _whole(value) or not 1 <= value <= top:
                raise _wrong(name, value, f"a whole number from 1 to {top}")
        if self.min_pixels > self.max_pixels:
            raise UserError(
                f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; "
                "expected 1 <= min_pixels <= max_pixels"
            )
        side = self.patch_size * self.merge_size
        if side**2 > MAX_IMAGE_PIXELS:
            raise UserError(
                f"patch_size is {self.patch_size} and merge_size {self.merge_size}; expected "
                f"merged patches of at most {MAX_IMAGE_PIXELS} pixels, found {side} x {side}"
            )

    def _check_values(self) -> None:
        for name, low in (("image_mean", -1e6), ("image_std", 1e-6)):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or len(values) != 3:
                raise _wrong(name, values, "three numbers, of red, green and blue")
            if not all(_number(value) and low <= value <= 1e6 for value in values):
                raise _wrong(name, values, f"numbers from {low:g} to 1e+06")
        if not (_number(self.rescale_factor) and 1e-6 <= self.rescale_factor <= 1e6):
            raise _wrong("rescale_factor", self.rescale_factor, "a number from 1e-06 to 1e+06")
        filters = [int(one) for one in Image.Resampling]
        if not _whole(self.resample) or self.resample not in filters:
            raise _wrong("resample", self.resample, f"the number of one of Pillow's: {filters}")

    @property
    def patch_values(self) -> int:
        """Values of a patch: E = channels * temporal_patch_size * patch_size ** 2; of bytes, which
        are not repeated along time, channels * patch_size ** 2."""
        frames = 1 if self.dtype == BYTES else self.temporal_patch_size
        return 3 * frames * self.patch_size**2

    def values(self) -> np.ndarray:
        """What each value of a byte becomes: float32 [3, 256], rounded at the steps where
        transformers does."""
        rescaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = (np.array(x, np.float32)[:, None] for x in (self.image_mean, self.image_std))
        return (rescaled - mean) / std

    def pixels(self) -> np.ndarray:
        """How a device makes them, (byte a + byte b - c) d in float32: a, b, c and d of each
        channel, float32 [4, 3].

        a and b are the factor in two parts of 16 bits, whose products with a byte are exact: what
        is rescaled is rounded once, as it is above, and so is the difference. The last product
        stands for a division, which no accelerator rounds as IEEE says and XLA writes as a product
        anyway: a value is within two units in the last place of that above, the same everywhere.
        """
        high = _sixteen_bits(self.rescale_factor)
        low = _sixteen_bits(self.rescale_factor - high)
        std = np.array(self.image_std, np.float32)
        return np.array([[high] * 3, [low] * 3, self.image_mean, 1 / std], np.float32)

    def as_bytes(self) -> ImageSettings:
        """With patches that are the image's bytes, an eighth of float32's."""
        return dataclasses.replace(self, dtype=BYTES)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        where: str | Path = "the image processor",
    ) -> ImageSettings:
        """From an image processor's dict; `min_pixels` and `max_pixels` win over what it says.

        Limits stand as `min_pixels` / `max_pixels` or in `size`, by these names or as
        `shortest_edge` / `longest_edge` (they count pixels all the same); those beside `size` win,
        as in transformers. `where` is the file that messages name.
        """
        for step in ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize"):
            said = config.get(step)
            if said is False:
                raise UserError(f"{where} says {step}=false, which is not supported")
            if said not in (None, True):
                raise UserError(f"{where}: {step} is {said!r:.80}; expected true")
        size = config.get("size") or {}
        if not isinstance(size, Mapping) or (size and not {*size} & {*_EDGES, *_EDGES.values()}):
            raise UserError(
                f"{where}: the image processor's size is {size!r:.200}; expected shortest_edge and "
                "longest_edge (in pixels of the whole picture), or min_pixels and max_pixels"
            )
        given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = field.name
            if name == "dtype":  # the model's, not the file's
                continue
            found = [given.get(name), config.get(name), size.get(_EDGES.get(name)), size.get(name)]
            value = next((value for value in found if value is not None), field.default)
            values[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**values)
        except UserError as error:
            own = ", ".join(
                f"{name} = {value}" for name, value in given.items() if value is not None
            )
            beside = f" with the run's own {own}" if own else ""
            raise UserError(
                f"{where}{beside}: {error}; take the file from the published checkpoint, or set "
                "the field right"
            ) from None


def read_config(path: str | Path) -> dict[str, Any]:
    """The image processor's dict of a checkpoint directory, `processor_class` included.

    It stands in `processor_config.json` under `image_processor` (transformers 5) or is
    `preprocessor_config.json` (older); where both stand, the former wins, as in transformers.
    """
    return _find(path)[1]


def read_settings(
    path: str | Path, min_pixels: int | None = None, max_pixels: int | None = None
) -> ImageSettings:
    """The settings of a checkpoint directory; the limits on pixels, where given, win."""
    file, config = _find(path)
    return ImageSettings.from_config(config, min_pixels, max_pixels, file)


def _find(path: str | Path) -> tuple[Path, dict[str, Any]]:
    new, old = Path(path, "processor_config.json"), Path(path, "preprocessor_config.json")
    config = read_json(new)
    if "image_processor" in config:
        inner = config["image_processor"]
        if not isinstance(inner, dict):
            raise UserError(f"{new}: image_processor is {inner!r:.80}; expected an object")
        outer = {k: v for k, v in config.items() if k == "processor_class"}
        return new, {**outer, **inner}
    if not old.is_file():
        raise UserError(
            f"{path} has no image processor: expected {old.name}, or {new.name} with an "
            "`image_processor` in it; copy it from the published checkpoint"
        )
    return old, read_json(old)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _wrong(name: str, value: Any, expected: str) -> UserError:
    shown = list(value) if isinstance(value, tuple) else value
    return UserError(f"{name} is {shown!r:.80}; expected {expected}")


def _sixteen_bits(number: float) -> float:
    """The number, of whose mantissa 16 bits are left."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**16), exponent - 16)
