# SPDX-License-Identifier: Apache-2.0
"""Positions, coordinates and windows as transformers has them."""

import numpy as np
import pytest

from jaxvl.data.geometry import lay_out, mrope_positions, patch_coords
from jaxvl.errors import UserError

PAD = 99  # stands for an image token


def tokens_with(grids, between, touching=False):
    """`between` text tokens, then the pads of an image, and so on; text at the end."""
    parts = []
    for i, (_, h, w) in enumerate(grids):
        text = 0 if touching and i else between
        parts += [np.zeros(text, np.int32), np.full(h * w // 4, PAD, np.int32)]
    return np.concatenate([*parts, np.zeros(between, np.int32)])


GRIDS = [((1, 4, 6),), ((1, 2, 10), (1, 8, 2)), ((1, 2, 2), (1, 6, 4), (1, 2, 2)), ()]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("between", [1, 5])
def test_positions_equal_get_rope_index(family, grids, between):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModel

    text = {"vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.device("meta"):
        config = AutoConfig.for_model(family, text_config=text, vision_config={"depth": 1})
        model = AutoModel.from_config(config)
    tokens_T = tokens_with(grids, between)
    ids = torch.from_numpy(tokens_T).long()[None]
    expected, deltas = model.get_rope_index(
        ids, mm_token_type_ids=(ids == PAD).int(), image_grid_thw=torch.tensor(grids)
    )
    positions_3T, next_position = mrope_positions(tokens_T, grids, PAD, 2)
    np.testing.assert_array_equal(positions_3T, expected[:, 0].numpy())
    assert next_position == len(tokens_T) + int(deltas[0])


def test_images_that_touch_are_still_two():
    grids = ((1, 2, 10), (1, 8, 2))
    positions_3T, next_position = mrope_positions(tokens_with(grids, 1, True), grids, PAD, 2)
    first, second = positions_3T[:, 1:6], positions_3T[:, 6:10]
    assert first.tolist() == [[1] * 5, [1] * 5, [1, 2, 3, 4, 5]]
    assert second.tolist() == [[6] * 4, [6, 7, 8, 9], [6] * 4]
    assert next_position == 11


@pytest.mark.parametrize(
    ("tokens", "message"), [([PAD] * 3, "3 image tokens"), ([PAD, 0, PAD], "not in one run")]
)
def test_pads_that_do_not_fit_the_grids_are_refused(tokens, message):
    with pytest.raises(UserError, match=message):
        mrope_positions(np.array(tokens), [(1, 2, 4)], PAD, 2)


def test_patch_coords_equal_get_vision_position_ids():
    torch = pytest.importorskip("torch")
    from transformers.vision_utils import get_vision_position_ids

    for grid in ((1, 4, 6), (1, 2, 10), (1, 8, 2)):
        expected = get_vision_position_ids(torch.tensor([grid]), 2)
        np.testing.assert_array_equal(patch_coords(grid, 2), expected.numpy())


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize(
    "grids",
    [
        *(((1, h, w),) for h, w in ((2, 2), (8, 8), (16, 8), (6, 10), (4, 140), (30, 18))),
        ((1, 2, 10), (1, 18, 16), (1, 2, 2), (1, 8, 8), (1, 12, 14)),
    ],
    ids=str,
)
def test_windows_equal_get_vision_window_index(grids, window):
    torch = pytest.importorskip("torch")
    from transformers.vision_utils import get_vision_window_index

    order_M, bounds = get_vision_window_index(torch.tensor(grids), 2, window * 28, 14)
    layout = lay_out(grids, 2, window)
    np.testing.assert_array_equal(layout.order_P.reshape(-1, 4)[:, 0] // 4, order_M)
    np.testing.assert_array_equal(layout.slots_M, torch.argsort(order_M))
    windows = np.repeat(np.arange(1, len(bounds)), np.diff(bounds))
    np.testing.assert_array_equal(layout.windows_P, windows)
    coords = np.concatenate([patch_coords(grid, 2) for grid in grids])
    np.testing.assert_array_equal(layout.coords_P2, coords[layout.order_P])
    assert {x.dtype for x in layout} == {np.dtype(np.int32)}


@pytest.mark.parametrize("grids", [((1, 4, 6), (1, 8, 2)), ()])
def test_without_windows_patches_stay_in_order(grids):
    layout = lay_out(grids, 2, 0)
    patches = sum(h * w for _, h, w in grids)
    np.testing.assert_array_equal(layout.order_P, np.arange(patches))
    np.testing.assert_array_equal(layout.slots_M, np.arange(patches // 4))
    images = np.repeat(np.arange(1, len(grids) + 1), [h * w for _, h, w in grids])
    np.testing.assert_array_equal(layout.segments_P, images)
    np.testing.assert_array_equal(layout.windows_P, images)
