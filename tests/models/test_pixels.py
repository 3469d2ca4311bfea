# SPDX-License-Identifier: Apache-2.0
"""Patches that go to a device as bytes become the image processor's values there."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from jaxvl.data.image import pixel_patches
from jaxvl.data.image_settings import ImageSettings
from jaxvl.distributed.mesh import make_mesh
from jaxvl.models.inputs import Vision
from jaxvl.models.vision import pixel_values

QWEN = ImageSettings()
PLAIN = dataclasses.replace(QWEN, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
ODD = dataclasses.replace(QWEN, temporal_patch_size=4, rescale_factor=0.0123)


def every_byte() -> Image.Image:
    """An image of 56 x 56 pixels in which each channel has every value, in an order of its own."""
    values = np.arange(56 * 56, dtype=np.int64).reshape(56, 56)
    return Image.fromarray(np.stack([values, 3 * values + 1, 7 * values + 5], -1).astype(np.uint8))


@pytest.mark.parametrize("settings", [QWEN, PLAIN, ODD], ids=["qwen", "plain", "odd"])
def test_bytes_become_the_processors_values(settings):
    """All 256 values of each channel, compiled, within two units in the last place; and to the bit
    what IEEE's sums and products make of them, whatever XLA joins."""
    wanted, grid = pixel_patches(every_byte(), settings)
    narrow = settings.as_bytes()
    patches, same_grid = pixel_patches(every_byte(), narrow)
    assert patches.dtype == np.uint8 and grid == same_grid
    assert patches.shape[1] == narrow.patch_values
    assert patches.nbytes * settings.temporal_patch_size * wanted.itemsize == wanted.nbytes
    assert [len(np.unique(x)) for x in np.split(patches, 3, axis=1)] == [256] * 3

    whole = np.zeros((1, *patches.shape[:1]), np.int32)
    coords = np.zeros((*whole.shape, 2), np.int32)
    vision = Vision(patches[None], coords, whole, whole, settings.pixels()[None])
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        made = jax.jit(pixel_values, static_argnums=1)(vision, settings.temporal_patch_size)
    made = np.asarray(made)[0]
    np.testing.assert_array_max_ulp(made, wanted, 2)
    high, low, mean, scale = settings.pixels()[..., None]
    every = np.arange(256, dtype=np.float32)
    table = (every * high + every * low - mean) * scale
    channels = np.split(made, 3, axis=1)
    for values, of_byte, numbers in zip(channels, table, np.split(patches, 3, axis=1), strict=True):
        frames = np.split(values, settings.temporal_patch_size, axis=1)
        assert all(np.array_equal(frame, of_byte[numbers]) for frame in frames)
