# SPDX-License-Identifier: Apache-2.0
"""From an image to the patches that the image tower reads.

Bit for bit what transformers' `Qwen2VLImageProcessorPil` computes of the same RGB image, in one
pass over the pixels. `load_image` says where another image is made of a file than there.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import math
import os
import urllib.parse
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows "bfloat16" by it
import numpy as np
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxvl.data.example import BadRow
from jaxvl.data.image_settings import BYTES, MAX_IMAGE_PIXELS, ImageSettings
from jaxvl.data.image_settings import read_config as read_config  # its name before it moved
from jaxvl.data.strict_json import read_json as read_json

MAX_ASPECT = 200
_CLEAR = ("RGBA", "LA", "PA", "RGBa", "La")  # modes of Pillow with an alpha channel
# Pillow knows many more, of which some start other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def load_image(image: Image.Image | bytes | str | os.PathLike) -> Image.Image:
    """The image in RGB, what is transparent in it laid over white.

    transformers does the same with a PIL image, and drops the alpha channel of a file, which leaves
    one flat colour of lines on a clear ground; it cuts 16 bits off at 255, here they become 8.

    A file (a path, its bytes, or a data: URL) is opened and turned upright by its EXIF tag; a PIL
    image is taken as it lies. Of several frames the first is taken. BadRow says what is wrong with
    a file that cannot be read, is no image or unpacks to more than MAX_IMAGE_PIXELS.
    """
    if isinstance(image, str) and is_url(image):
        image = read_url(image)
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "") or "given as a PIL image"
    elif isinstance(image, bytes):
        name = f"of {len(image)} bytes"
    elif isinstance(image, str | os.PathLike):
        name = os.fspath(image)
    else:
        raise BadRow(
            "image of a wrong type",
            f"expected a PIL image, a path or bytes, found {type(image).__name__}",
        )
    try:
        if isinstance(image, Image.Image):
            _check_size(image, name)
            return _to_rgb(image, name)
        return _read_file(io.BytesIO(image) if isinstance(image, bytes) else image, name)
    except BadRow:
        raise
    except FileNotFoundError as error:
        raise BadRow("missing image file", f"cannot read the image {name}: no such file") from error
    except Image.DecompressionBombError as error:
        raise BadRow("image with too many pixels", f"the image {name}: {error}") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        message = f"cannot read the image {name}: not a picture in any of the formats {known}"
        raise BadRow("not an image", message) from error
    except Exception as error:  # decoders meet broken data with exceptions of any type
        raise BadRow("broken image", f"cannot read the image {name}: {error}") from error


def is_url(text: str) -> bool:
    """Whether a text says where an image is as a URL, rather than as a path."""
    return text[:5].lower() == "data:" or "://" in text[:10]


def read_url(url: str) -> bytes | str:
    """The bytes in a data: URL, the path in a file: URL; BadRow for any other."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "file":
        return urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    if scheme.lower() != "data":
        raise BadRow(
            "picture behind a URL",
            f"the picture {url!r:.80} is behind a URL, and nothing is fetched: save it as a file "
            "and give its path, or give its bytes (a data: URL has them)",
        )
    head, comma, body = rest.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if head.lower().endswith(";base64"):
            return base64.b64decode("".join(urllib.parse.unquote(body).split()), validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise BadRow("broken image", f"cannot read the data: URL {url!r:.60}: {error}") from error


def _read_file(file: io.BytesIO | str | os.PathLike, name: str) -> Image.Image:
    with Image.open(file, formats=FORMATS) as opened:
        _check_size(opened, name)
        ImageOps.exif_transpose(opened, in_place=True)
        return _to_rgb(opened, name)


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise BadRow(
            "image with too many pixels",
            f"the image {name} is {image.width} x {image.height}, "
            f"more than {MAX_IMAGE_PIXELS} pixels in all",
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    clear = image.info.get("transparency")  # a colour, an index, or the alpha of each index
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image, clear, name)
        clear = None
    if image.mode in _CLEAR or clear is not None:
        # Pillow goes from premultiplied grey to RGBA by way of grey alone.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


def _eight_bits(image: Image.Image, clear: int | None, name: str) -> Image.Image:
    """Grey of 16 bits as grey of 8, with alpha where one of its values is `clear`.

    Pillow's own conversion cuts off at 255, which leaves a white sheet.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    deep = image.mode.startswith("I;16") or high > 255
    outside = not 0 <= low <= high < 2**16 or (deep and image.mode == "F")  # so is NaN
    # Cut to whole numbers, what lies between 0 and 1 would be a black sheet.
    if outside or (image.mode == "F" and (values % 1).any()):
        raise BadRow(
            "image of a wrong type",
            f"the image {name} has values from {low} to {high} (mode {image.mode}); expected 8 or "
            "16 bits without a sign, whole numbers: save it as PNG",
        )
    grey = Image.fromarray((values.astype(np.uint16) >> 8 * deep).astype(np.uint8))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The (height, width) to which an image is resized; transformers' function of that name.

    Both become multiples of `factor`, their product lies between the limits as far as that allows,
    and the aspect ratio is nearly kept. BadRow where it exceeds 200.
    """
    check_shape(height, width)
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def check_shape(height: int, width: int) -> None:
    """BadRow for an image that `smart_resize` cannot take, whatever its settings."""
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise BadRow(
            "image of an extreme shape",
            f"an image is {width} wide and {height} high; expected sides of at least one pixel "
            f"and one side at most {MAX_ASPECT} times the other: leave the image out or crop it",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as a model sees it."""

    size: tuple[int, int]  # (width, height) of the image itself
    patches_PE: np.ndarray  # see `pixel_patches`
    grid: tuple[int, int, int]


def see(image: Any, settings: ImageSettings) -> SeenImage:
    """What a model sees of an image (see `load_image`); of what was seen already it is the same."""
    if isinstance(image, SeenImage):
        return image
    picture = load_image(image)
    return SeenImage(picture.size, *pixel_patches(picture, settings))


def pixel_patches(
    image: Image.Image | bytes | str | os.PathLike, settings: ImageSettings
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """`pixel_values` [P, E] of one image, in `settings.dtype`, and its grid (1, h, w), P = h * w.

    Patches come in merge order (block by block of merge_size x merge_size), the values of a patch
    in the order channel, time, row, column; a still image is repeated along time. Bytes are the
    image's own, and not repeated: channel, row, column.
    """
    image = load_image(image)
    size, merge = settings.patch_size, settings.merge_size
    height, width = smart_resize(
        image.height, image.width, size * merge, settings.min_pixels, settings.max_pixels
    )
    pixels_HWC = np.asarray(image.resize((width, height), resample=settings.resample))
    h, w = height // size, width // size

    bytes_PCS = rearrange(
        pixels_HWC,
        "(hb hm y) (wb wm x) C -> (hb wb hm wm) C (y x)",
        hm=merge,
        wm=merge,
        y=size,
        x=size,
    )
    if settings.dtype == BYTES:
        return rearrange(bytes_PCS, "P C S -> P (C S)"), (1, h, w)
    values_3B = settings.values().astype(settings.dtype)
    patches = np.empty((h * w, 3, settings.temporal_patch_size, size * size), values_3B.dtype)
    for channel, values in enumerate(values_3B):
        patches[:, channel] = values.take(bytes_PCS[:, channel])[:, None]
    return rearrange(patches, "P C t S -> P (C t S)"), (1, h, w)
