# SPDX-License-Identifier: Apache-2.0
"""Patches are bit for bit those of transformers' Qwen2VLImageProcessorPil."""

import base64
import io
import json

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from jaxvl.data.image import (
    ImageSettings,
    load_image,
    pixel_patches,
    read_config,
    smart_resize,
)
from jaxvl.errors import UserError

SIZES = [(1, 1), (3, 2), (28, 28), (57, 111), (640, 37), (29, 700), (200, 1), (333, 250)]  # (w, h)


def noise(width, height, bands=3, seed=0):
    shape = (height, width, bands) if bands > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pictures():
    """One image of every kind that decoders hand out."""
    rgb, rgba = Image.fromarray(noise(61, 45)), Image.fromarray(noise(61, 45, 4))
    clear = Image.fromarray(noise(61, 45) // 2)
    clear.putpixel((0, 0), (9, 8, 7))
    clear.info["transparency"] = (9, 8, 7)
    palette = rgb.quantize(32)
    clear_palette = rgb.quantize(32)
    clear_palette.info["transparency"] = 3
    return {
        "rgb": rgb,
        "rgba": rgba,
        "grey": Image.fromarray(noise(61, 45, 1)),
        "grey with alpha": Image.merge("LA", (rgba.getchannel(0), rgba.getchannel(3))),
        "one bit": Image.fromarray(noise(61, 45, 1)).convert("1"),
        "palette": palette,
        "palette with a clear colour": clear_palette,
        "rgb with a clear colour": clear,
        "float": Image.fromarray(noise(61, 45, 1).astype(np.float32)),
        "32 bit": Image.fromarray(noise(61, 45, 1).astype(np.int32)),
        "cmyk": rgb.convert("CMYK"),
        "ycbcr": rgb.convert("YCbCr"),
    }


def reference(**settings):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    return module.Qwen2VLImageProcessorPil(**settings)


def assert_same(image, settings, processor):
    patches_PE, grid = pixel_patches(image, settings)
    expected = processor(images=image)
    assert patches_PE.dtype == np.float32
    np.testing.assert_array_equal(patches_PE, np.asarray(expected["pixel_values"]))
    assert [list(grid)] == np.asarray(expected["image_grid_thw"]).tolist()


@pytest.mark.parametrize("limits", [{}, {"min_pixels": 3136, "max_pixels": 28 * 28 * 6}])
def test_patches_equal_those_of_transformers_at_any_size(limits):
    settings, processor = ImageSettings(**limits), reference(**limits)
    for size in SIZES:
        assert_same(Image.fromarray(noise(*size)), settings, processor)


@pytest.mark.parametrize("kind", pictures())
def test_patches_equal_those_of_transformers_for_any_kind_of_image(kind):
    assert_same(pictures()[kind], ImageSettings(), reference())


@pytest.mark.parametrize("kind", ["rgb", "palette", "grey", "one bit", "cmyk"])
def test_a_path_gives_what_transformers_makes_of_it(kind, tmp_path):
    file = tmp_path / ("a.tif" if kind == "cmyk" else "a.png")
    pictures()[kind].save(file)
    assert_same(str(file), ImageSettings(), reference())


def encoded(image, form, **settings):
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def lines(mode="RGBA"):
    """Two black lines on a clear ground, whose clear pixels are black too."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 5, 40, 8))
    image.paste((0, 0, 0, 255), (10, 0, 13, 30))
    return image if mode == "RGBA" else image.convert(mode)


def transparent():
    """The lines as files of every kind that has a clear colour."""
    drawn = np.asarray(lines())[..., 3]
    index = Image.fromarray((drawn > 0).astype(np.uint8)).convert("P")
    index.putpalette([0] * 768)
    grey = Image.fromarray(np.where(drawn > 0, 0, 9).astype(np.uint8))
    rgb = Image.merge("RGB", [grey] * 3)
    deep = Image.fromarray(np.where(drawn > 0, 0, 40_000).astype(np.uint16))
    frames = {"save_all": True, "append_images": [Image.new("P", (40, 30), 1)], "transparency": 0}
    return {
        "rgba.png": encoded(lines(), "PNG"),
        "la.png": encoded(lines("LA"), "PNG"),
        "palette.png": encoded(index, "PNG", transparency=0),
        "palette with alphas.png": encoded(index, "PNG", transparency=bytes([0, 255])),
        "grey with tRNS.png": encoded(grey, "PNG", transparency=9),
        "rgb with tRNS.png": encoded(rgb, "PNG", transparency=(9, 9, 9)),
        "16 bit with tRNS.png": encoded(deep, "PNG", transparency=40_000),
        "one bit with tRNS.png": encoded(
            grey.point(lambda v: 255 * (v > 0), "1"), "PNG", transparency=1
        ),
        "frames.gif": encoded(index, "GIF", **frames),
        "a.webp": encoded(lines(), "WEBP", lossless=True),
        "a.tif": encoded(lines(), "TIFF"),
    }


@pytest.mark.parametrize("kind", transparent())
def test_lines_on_a_clear_ground_are_black_on_white_wherever_they_come_from(kind, tmp_path):
    data = transparent()[kind]
    if kind.startswith("16 bit"):
        assert Image.open(io.BytesIO(data)).mode == "I;16"
    expected = np.asarray(lines("RGBA"))[..., 3] == 0
    (tmp_path / kind).write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (data, str(tmp_path / kind), url, Image.open(io.BytesIO(data))):
        found = np.asarray(load_image(source))
        np.testing.assert_array_equal(found, 255 * np.repeat(expected[..., None], 3, 2))


def test_half_of_a_colour_shows_through():
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    for source in (image, encoded(image, "PNG"), image.convert("RGBa")):
        red, green, _ = load_image(source).getpixel((0, 0))
        assert abs(red - 227) <= 1 and abs(green - 127) <= 1
    assert load_image(encoded(image.convert("LA"), "PNG")).getpixel((0, 0))[0] in range(155, 160)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_steps(form):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    data = encoded(Image.fromarray(ramp), form)
    np.testing.assert_array_equal(np.asarray(load_image(data))[..., 1], ramp >> 8)


@pytest.mark.parametrize("value", [-1.0, 256.0, 70_000.0, np.inf, -np.inf, np.nan])
def test_values_that_are_no_picture_are_named(value):
    with pytest.raises(UserError, match="expected 8 or 16 bits"):
        load_image(Image.fromarray(np.full((4, 4), value, np.float32)))


def test_a_url_is_read_or_refused(tmp_path):
    data = encoded(Image.new("RGB", (5, 4), "red"), "PNG")
    plain = base64.b64encode(data).decode()
    (tmp_path / "a b.png").write_bytes(data)
    for url in (
        f"data:image/png;base64,{plain}",
        f"data:;base64,{plain}",
        f"DATA:image/png;charset=utf-8;base64,{plain[:40]}\n{plain[40:]}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
        f"file://{tmp_path}/a%20b.png",
    ):
        assert load_image(url).size == (5, 4)
    for url in ("https://x.org/a.png", "http://x/a", "HTTPS://X/a.png", "s3://b/a.png"):
        with pytest.raises(UserError, match="nothing is fetched"):
            load_image(url)
    for url in ("data:image/png;base64,A", "data:image/png;base64", "data:,x"):
        with pytest.raises(UserError):
            load_image(url)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"size": {"min_pixels": 100, "max_pixels": 900}}, (100, 900)),
        ({"size": {"shortest_edge": 100, "longest_edge": 900}}, (100, 900)),
        ({"size": {"max_pixels": 9000}}, (3136, 9000)),
        ({"size": {"min_pixels": 100, "longest_edge": 900}}, (100, 900)),
        ({"size": {"min_pixels": 1, "max_pixels": 2}, "min_pixels": 3, "max_pixels": 4}, (3, 4)),
        ({"size": {"min_pixels": None, "max_pixels": 9000}}, (3136, 9000)),
        ({"size": None, "max_pixels": 9000}, (3136, 9000)),
    ],
)
def test_limits_stand_in_size_by_either_name(found, expected):
    settings = ImageSettings.from_config(found)
    assert (settings.min_pixels, settings.max_pixels) == expected


def test_exif_turns_a_file_and_not_an_open_image(tmp_path):
    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    Image.fromarray(noise(90, 60)).save(file, exif=exif)
    assert load_image(file).size == (60, 90)
    assert_same(str(file), ImageSettings(), reference())
    with Image.open(file) as image:
        assert load_image(image).size == (90, 60)
        assert_same(image, ImageSettings(), reference())


def test_smart_resize_equals_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    rng = np.random.default_rng(0)
    checked = 0
    while checked < 300:
        height, width = (int(x) for x in np.exp(rng.uniform(0, 9, 2)))
        if max(height, width) <= 200 * min(height, width):
            args = (height, width, 28, 3136, int(rng.integers(3136, 10**6)))
            assert smart_resize(*args) == theirs(*args)
            checked += 1


def test_settings_are_what_transformers_reads_from_either_generation_of_files(tmp_path):
    other = {
        "patch_size": 7,
        "merge_size": 1,
        "temporal_patch_size": 3,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "rescale_factor": 0.01,
        "resample": 2,
    }
    limits = {"min_pixels": 1000, "max_pixels": 9000}
    size = {"size": {"shortest_edge": 1000, "longest_edge": 9000}}
    image = Image.fromarray(noise(130, 70))
    for i, found in enumerate([other | limits, other | size]):
        old, new = tmp_path / f"old{i}", tmp_path / f"new{i}"
        old.mkdir(), new.mkdir()
        (old / "preprocessor_config.json").write_text(json.dumps(found))
        (new / "processor_config.json").write_text(json.dumps({"image_processor": found}))
        for path in (old, new):
            settings = ImageSettings.from_config(read_config(path))
            assert (settings.min_pixels, settings.max_pixels) == (1000, 9000)
            assert_same(image, settings, type(reference()).from_pretrained(path))


def test_the_newer_file_wins_and_limits_of_the_call_win_over_both(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"max_pixels": 5000}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"max_pixels": 6000}}')
    config = read_config(tmp_path)
    assert ImageSettings.from_config(config).max_pixels == 6000
    assert ImageSettings.from_config(config, 1, 7000) == ImageSettings(
        min_pixels=1, max_pixels=7000
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    broken, cut = tmp_path / "broken.png", tmp_path / "cut.jpg"
    broken.write_bytes(b"\x89PNG not really")
    Image.fromarray(noise(200, 200)).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    for file in (broken, cut, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=file.name):
            load_image(file)
    with Image.open(cut) as image, pytest.raises(UserError, match="cut.jpg"):
        load_image(image)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"size": {"height": 224, "width": 224}}, "expected shortest_edge and longest_edge"),
        ({"size": 224}, "the image processor's size is 224"),
        ({"min_pixels": 10, "max_pixels": 9}, "min_pixels is 10"),
    ],
)
def test_settings_that_are_not_supported_are_named(found, message):
    with pytest.raises(UserError, match=message):
        ImageSettings.from_config(found)


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(UserError, match="ndarray"):
        load_image(noise(4, 4))
    with pytest.raises(UserError, match="201 wide and 1 high"):
        pixel_patches(Image.fromarray(noise(201, 1)), ImageSettings())
    with pytest.raises(UserError, match="preprocessor_config.json"):
        read_config(tmp_path)


def test_patches_in_16_bits_are_what_a_device_would_round():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8))
    wide = pixel_patches(image, ImageSettings())[0]
    half = pixel_patches(image, ImageSettings(dtype="bfloat16"))[0]
    assert half.nbytes * 2 == wide.nbytes
    np.testing.assert_array_equal(half, wide.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("top", [1.0, 0.25, 200.5])
def test_fractions_are_no_image(tmp_path, top):
    """Cut to whole numbers, an image from 0 to 1 would be black."""
    values = np.linspace(0, top, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="has values from 0.0 to .*expected 8 or 16 bits .*whole"):
        load_image(tmp_path / "a.tiff")
