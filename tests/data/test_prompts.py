# SPDX-License-Identifier: Apache-2.0
"""Prompts as transformers would tokenize and place them, and batches as the contract has them."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvl.data.geometry import patch_coords
from jaxvl.data.image import pixel_patches
from jaxvl.data.prompts import (
    Processor,
    PromptTooLong,
    balanced,
    bucket,
    collate,
    round_up,
    step_up,
)
from jaxvl.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from jaxvl.errors import UserError

TEXTS = ["Which shape is left of the red circle?", "There are 12 blue squares in the image."] * 3
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}" + VISION + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(path, **files):
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))


def make_checkpoint(path, template=TEMPLATE, **config):
    path.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    ids = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_end|>", "<|endoftext|>"])
    write(
        path,
        config={"model_type": "qwen2_vl", "image_token_id": ids[0], "eos_token_id": ids[1]}
        | config,
        generation_config={"eos_token_id": [ids[1], ids[2]], "temperature": 0.1},
        preprocessor_config={"min_pixels": 784, "max_pixels": 8000, "my_field": 1},
    )
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# --- tokenizer


def test_every_byte_makes_the_round_trip():
    tokenizer = train_tokenizer(TEXTS, vocab_size=280)
    text = "".join(map(chr, range(0x250))) + "例 \U0001f914 e\u0301\r\n\t  1234"
    expected = text.replace("e\u0301", "é")  # NFC
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == expected
    assert len(tokenizer) <= 280
    assert all(len(t) == 1 for t in tokenizer.tokenize("2718"))  # digits stay single


def test_specials_come_last_in_order_and_are_never_split():
    tokenizer = train_tokenizer(TEXTS, vocab_size=280)
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert tokenizer("<|image_pad|><|image_pad|>")["input_ids"] == [ids[6], ids[6]]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    with pytest.raises(UserError, match="at least 264"):
        train_tokenizer(TEXTS, vocab_size=263)


def test_training_gives_the_same_tokenizer_in_another_process():
    code = (
        "from jaxvl.data.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer({TEXTS!r}, 300).backend_tokenizer.to_str(), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout == train_tokenizer(TEXTS, 300).backend_tokenizer.to_str()


@pytest.mark.parametrize("config", [False, True])
def test_a_saved_tokenizer_gives_the_same_ids_with_auto_tokenizer(tmp_path, config):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    if config:
        write(tmp_path, config={"model_type": "qwen2_vl"})
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Which 12 shapes?\n\n  don't <|im_end|>" + VISION
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.eos_token_id, loaded.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


# --- processor


def test_tokens_and_patches_equal_those_of_transformers(processor, checkpoint):
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = [picture(90, 60), picture(30, 120), picture(56, 56)]
    text = f"Which{VISION} is left?\n{VISION}{VISION}<|image>1 2 e\u0301<|im_end|>"
    encoded = processor.encode(text, images)

    expected = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)(images=images)
    grids = np.asarray(expected["image_grid_thw"])
    pads = iter(["<|image_pad|>" * int(h * w // 4) for _, h, w in grids])
    parts = text.split("<|image_pad|>")
    expanded = parts[0] + "".join(next(pads) + part for part in parts[1:])
    assert encoded.text == text
    assert encoded.tokens.tolist() == AutoTokenizer.from_pretrained(checkpoint)(expanded).input_ids
    assert [list(grid) for grid in encoded.grids] == grids.tolist()
    np.testing.assert_array_equal(encoded.patches_PE, np.asarray(expected["pixel_values"]))


def test_geometry_of_an_encoded_prompt_fits_together(processor):
    images = [picture(90, 60), picture(30, 120)]
    encoded = processor.encode(f"a{VISION}b{VISION}", images)
    is_image = encoded.tokens == processor.image_token_id
    assert encoded.slots[is_image].tolist() == list(range(len(encoded.segments) // 4))
    assert (encoded.slots[~is_image] == -1).all()
    for i, (image, grid) in enumerate(zip(images, encoded.grids, strict=True), start=1):
        mine = encoded.segments == i
        np.testing.assert_array_equal(
            encoded.patches_PE[mine], pixel_patches(image, processor.image)[0]
        )
        np.testing.assert_array_equal(encoded.coords_P2[mine], patch_coords(grid, 2))
    assert encoded.next_position == encoded.positions_3T.max() + 1


def test_patches_come_window_by_window_and_tokens_know_where_theirs_went(processor, tmp_path):
    tower = {"model_type": "qwen2_5_vl", "vision_config": {"window_size": 56}}
    windowed = Processor.from_pretrained(make_checkpoint(tmp_path / "a", **tower))
    prompt, images = f"a{VISION}b{VISION}", [picture(140, 112), picture(30, 120)]
    ours, plain = windowed.encode(prompt, images), processor.encode(prompt, images)
    for name in ("tokens", "positions_3T", "segments"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))
    np.testing.assert_array_equal(plain.windows, plain.segments)

    # The merged patch of a token, found through its slot, is the same four patches.
    is_image = ours.slots >= 0
    for name in ("patches_PE", "coords_P2", "segments"):
        a, b = (getattr(e, name).reshape(is_image.sum(), -1) for e in (ours, plain))
        np.testing.assert_array_equal(a[ours.slots[is_image]], b[plain.slots[is_image]])
    assert (np.diff(ours.windows) >= 0).all() and (ours.slots != plain.slots).any()
    for window in range(1, ours.windows.max() + 1):
        mine = ours.windows == window
        assert len(set(map(tuple, ours.coords_P2[mine] // 4))) == 1  # of 2 x 2 merged patches
        assert len(set(ours.segments[mine])) == 1
    tower["vision_config"] = {}  # as transformers has it where a config says nothing
    assert Processor.from_pretrained(make_checkpoint(tmp_path / "b", **tower)).window == 4


def test_sizes_are_those_of_the_file_upright_and_of_what_the_model_sees(processor, tmp_path):
    turned = picture(90, 60)
    exif = turned.getexif()
    exif[274] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    encoded = processor.encode(f"{VISION}{VISION}", [picture(90, 60), tmp_path / "turned.jpg"])
    assert encoded.image_sizes == ((90, 60), (60, 90))
    for (width, height), (_, h, w) in zip(encoded.processed_sizes, encoded.grids, strict=True):
        assert (width, height) == (w * 14, h * 14) and not width % 28 and not height % 28


@pytest.mark.parametrize(
    ("prompt", "images", "message"),
    [
        (VISION, 0, "1 <|image_pad|> for 0 images"),
        (VISION, 2, "1 <|image_pad|> for 2 images"),
        ("no image", 1, "0 <|image_pad|> for 1 images"),
        ("<|video_pad|>", 0, "video is not supported"),
        ("", 0, "empty"),
        ([{"role": "user", "content": 3}], 0, "message 0 has the content 3"),
    ],
)
def test_a_prompt_that_cannot_be_encoded_says_why(processor, prompt, images, message):
    with pytest.raises(UserError) as caught:
        processor.encode(prompt, [picture(30, 30)] * images)
    assert message in str(caught.value)


def test_messages_go_through_the_template_and_strings_do_not(processor):
    content = [{"type": "image"}, {"type": "text", "text": "Q?"}]
    expected = f"<|im_start|>user\n{VISION}Q?<|im_end|>\n<|im_start|>assistant\n"
    assert processor.render([{"role": "user", "content": content}]) == expected
    assert processor.render("<|im_start|> Q?") == "<|im_start|> Q?"


def test_the_template_is_the_one_of_the_processor_before_the_tokenizers(tmp_path):
    path = make_checkpoint(tmp_path / "a", template="tokenizer")
    turn = [{"role": "user", "content": ""}]
    assert Processor.from_pretrained(path).render(turn) == "tokenizer"
    write(path, chat_template={"chat_template": "processor"})
    assert Processor.from_pretrained(path).render(turn) == "processor"
    bare = Processor.from_pretrained(make_checkpoint(tmp_path / "b", template=None))
    with pytest.raises(UserError, match="no chat template"):
        bare.render(turn)


def test_an_old_tokenizer_config_holds_the_template(tmp_path):
    path = make_checkpoint(tmp_path / "a")
    (path / "chat_template.jinja").unlink()
    config = json.loads((path / "tokenizer_config.json").read_text())
    write(path, tokenizer_config={**config, "chat_template": "old"})
    assert Processor.from_pretrained(path).chat_template == "old"


def test_stop_ids_are_those_of_every_file_once(tmp_path):
    path = make_checkpoint(tmp_path / "a")
    end, text_end = Processor.from_pretrained(path).stop_ids  # <|im_end|>, <|endoftext|>
    ids = {"image_token_id": Processor.from_pretrained(path).image_token_id}
    write(
        path,
        generation_config={"eos_token_id": text_end},
        config={"model_type": "qwen2_vl", **ids, "text_config": {"eos_token_id": 7}},
    )
    assert Processor.from_pretrained(path).stop_ids == (text_end, 7, end)
    (path / "generation_config.json").unlink()
    assert Processor.from_pretrained(path).stop_ids == (7, end)


def test_text_makes_the_round_trip_without_special_tokens(processor):
    tokens = processor.tokenize("There are 12.<|im_end|>")
    assert tokens[-1] == processor.stop_ids[0]
    assert processor.decode(np.array(tokens)) == "There are 12."
    # a model's vocabulary is padded: ids past the tokenizer's are drawn now and then
    assert processor.decode([*tokens, 10**6]) == "There are 12."


def test_a_saved_processor_is_read_by_both(processor, checkpoint, tmp_path):
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    smaller = Processor.from_pretrained(checkpoint, max_pixels=3000)
    assert (smaller.image.min_pixels, smaller.image.max_pixels) == (784, 3000)
    smaller.save(tmp_path)
    again = Processor.from_pretrained(tmp_path)
    for name in ("image", "chat_template", "stop_ids", "pad_id", "image_token_id"):
        assert getattr(again, name) == getattr(smaller, name)
    assert (again.generation_config["temperature"], again.image_config["my_field"]) == (0.1, 1)

    image, text = picture(90, 60), f"12 {VISION}"
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=image)
    encoded = again.encode(text, [image])
    np.testing.assert_array_equal(encoded.patches_PE, np.asarray(theirs["pixel_values"]))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(text).input_ids == processor.tokenize(text)
    assert tokenizer.chat_template == TEMPLATE


def test_a_processor_can_be_sent_to_another_process(processor):
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.tokenize("a 12") == processor.tokenize("a 12")


def test_checkpoints_that_do_not_fit_together_are_refused(tmp_path):
    path = make_checkpoint(tmp_path / "a")
    write(path, config={"model_type": "qwen2_vl", "image_token_id": 151655})
    with pytest.raises(UserError, match="image_token_id = 151655"):
        Processor.from_pretrained(path)
    (path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        Processor.from_pretrained(path)
    with pytest.raises(UserError, match="not a directory"):
        Processor.from_pretrained(tmp_path / "none")


# --- batches


def test_a_row_of_a_batch_is_its_prompt_and_padding(processor):
    prompts = [
        processor.encode(f"a{VISION}b{VISION}", [picture(90, 60), picture(30, 120)]),
        processor.encode("no image", []),
        processor.encode(f"{VISION} Which shape?", [picture(56, 56)]),
    ]
    batch = collate(prompts, [7, 8, 9], pad_id=5, prompt_bucket=(8, 64, 99), patch_bucket=(4, 80))
    assert batch["prompt_id"].tolist() == [7, 8, 9] and batch["completion"].tolist() == [0, 0, 0]
    assert batch["next_position"].tolist() == [e.next_position for e in prompts]
    assert batch["tokens"].shape == (3, 64) and batch["patches"].shape == (3, 80, 1176)
    for r, e in enumerate(prompts):
        T, P = len(e.tokens), len(e.patches_PE)
        assert batch["length"][r] == T
        rows = {
            "tokens": (e.tokens, 5),
            "positions": (e.positions_3T.T, 0),
            "slots": (e.slots, -1),
            "patches": (e.patches_PE, 0),
            "coords": (e.coords_P2, 0),
            "segments": (e.segments, 0),
            "windows": (e.windows, 0),
        }
        for name, (real, pad) in rows.items():
            row = batch[name][r].T if name == "positions" else batch[name][r]
            size = P if name in ("patches", "coords", "segments", "windows") else T
            np.testing.assert_array_equal(row[:size], real, err_msg=name)
            assert (row[size:] == pad).all(), name
    assert {name: x.dtype for name, x in batch.items()} == {
        name: np.float32 if name == "patches" else np.int32 for name in batch
    }


def test_the_rows_of_a_prompt_are_consecutive_and_share_out_its_completions(processor):
    prompts = [processor.encode("a", []), processor.encode(VISION, [picture(56, 56)])]
    sizes = {"pad_id": 0, "prompt_bucket": 16, "patch_bucket": 16}
    once = collate(prompts, [3, 4], **sizes)
    batch = collate(prompts, [3, 4], rows_per_prompt=3, completions_per_row=2, **sizes)
    assert batch["prompt_id"].tolist() == [3, 3, 3, 4, 4, 4]
    assert batch["completion"].tolist() == [0, 2, 4, 0, 2, 4]
    for name in once.keys() - {"completion"}:
        np.testing.assert_array_equal(batch[name], np.repeat(once[name], 3, axis=0))


def test_a_batch_without_images_has_empty_patches(processor):
    batch = collate(
        [processor.encode("a", [])], [0], pad_id=0, prompt_bucket=8, patch_bucket=(16, 32)
    )
    assert batch["patches"].shape == (1, 16, 1176) and batch["coords"].shape == (1, 16, 2)
    assert not batch["patches"].any() and not batch["segments"].any()
    assert (batch["slots"] == -1).all()


def test_a_prompt_too_long_is_named_and_never_cut(processor):
    short, long = processor.encode("a", []), processor.encode(VISION, [picture(90, 60)])
    tokens, patches = len(long.tokens), len(long.patches_PE)
    with pytest.raises(PromptTooLong, match=rf"prompt 12 has {tokens} tokens, the limit is 4"):
        collate([short, long], [11, 12], pad_id=0, prompt_bucket=(2, 4), patch_bucket=64)
    with pytest.raises(PromptTooLong, match=rf"prompt 12 has {patches} patches, the limit is 16"):
        collate([short, long], [11, 12], pad_id=0, prompt_bucket=64, patch_bucket=(8, 16))


def test_bucket_is_the_smallest_that_fits():
    assert [bucket(n, (8, 32, 16)) for n in (0, 8, 9, 17)] == [8, 8, 16, 32]
    with pytest.raises(UserError, match=r"33 does not fit eval.buckets \(8, 32\)"):
        bucket(33, (8, 32), "eval.buckets")
    assert [round_up(n, 16) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]


def test_sizes_go_up_in_few_steps():
    sizes = [step_up(n) for n in range(4097)]
    assert sorted(set(sizes)) == [64 * 2**i * k // 4 for i in range(7) for k in (3, 4)][1:]
    assert all(n <= size < max(1.5 * n, 65) for n, size in enumerate(sizes))
    assert sorted(set(sizes))[:5] == [64, 96, 128, 192, 256]


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_are_balanced(parts):
    """Every index once, and sums within one prompt of each other."""
    costs = np.random.default_rng(parts).integers(50, 3000, 32).tolist()
    order = balanced(costs, parts)
    assert sorted(order) == list(range(32))
    sums = np.array(costs)[order].reshape(parts, -1).sum(1)
    assert np.ptp(sums) <= max(costs)
    assert balanced([9, 9, 1, 1], 2) == [0, 2, 1, 3]
    assert balanced([9, 9, 1, 1, 5], 2) == [0, 1, 2, 3, 4]  # no equal halves
