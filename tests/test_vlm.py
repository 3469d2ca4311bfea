# SPDX-License-Identifier: Apache-2.0
"""load, logits, generate, logprobs, save: shapes, lists, and mistakes."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.models import qwen_vl
from jaxvl.rl import batching
from jaxvl.vlm import Completion, load

V = "<|vision_start|><|image_pad|><|vision_end|>"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "left?"}]}]
SAME = 1e-5  # the same numbers from a program of another shape


def test_load(vlm, tiny_path):
    assert vlm.config.text.tied and vlm.config.text.vocab == 320
    assert vlm.mesh.shape == {"data": 1, "fsdp": 1, "tensor": 1}
    assert {x.dtype for x in jax.tree.leaves(vlm.params)} == {np.dtype(np.float32)}
    shapes = jax.tree.map(lambda x: x.shape, vlm.params)
    assert shapes == jax.tree.map(lambda x: x.shape, qwen_vl.abstract_params(vlm.config))
    with pytest.raises(UserError, match="dtype 'float16': expected 'float32' or 'bfloat16'"):
        load(tiny_path, "float16")
    assert load(str(tiny_path), "float32", min_pixels=7056).processor.image.min_pixels == 7056


def test_a_model_shows_itself_without_its_weights(vlm):
    shown = repr(vlm)
    assert "vocab=320" in shown and "dtype='float32'" in shown
    assert len(shown) < 2000  # a cell that ends with `vlm`


def test_a_hub_id_is_fetched(tiny_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, allow_patterns):
        asked[repo] = allow_patterns
        return str(tiny_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load("someone/a-model", "float32").config.family == "qwen2_vl"
    assert set(asked) == {"someone/a-model"} and "*.safetensors" in asked["someone/a-model"]


def test_a_hub_id_that_cannot_be_fetched():
    """The tests are offline."""
    with pytest.raises(UserError, match="jaxvl-nobody/nothing: .* could not be fetched"):
        load("jaxvl-nobody/nothing")


def test_load_names_what_does_not_divide(tiny_path):
    with pytest.raises(UserError, match=r"does not divide by 3 .*choose a smaller (fsdp|tensor)"):
        load(tiny_path, "float32", make_mesh(1, 3, 1, jax.devices()[:3]))


def test_prompts_of_every_kind_in_one_call(vlm, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    prompts = ["text", f"{V}left?", MESSAGES, f"{V}{V}"]
    images = [[], [tmp_path / "a.png"], [pictures[0]], pictures[:2]]
    logits = vlm.logits(prompts, images)
    assert [x.shape for x in logits] == [(len(e.tokens), 320) for e in vlm.encode(prompts, images)]
    rendered = vlm.processor.render(MESSAGES)
    assert V in rendered and rendered.endswith("<|im_start|>assistant\n")
    (alone,) = vlm.logits([rendered], [[pictures[0]]])
    np.testing.assert_allclose(logits[2], alone, atol=SAME)


def test_no_images(vlm):
    a, b = vlm.logits(["How many?"], None)[0], vlm.logits(["How many?"], [[]])[0]
    np.testing.assert_array_equal(a, b)
    assert vlm.logits([], []) == [] and vlm.generate([], []) == []


def test_generate(vlm, pictures):
    prompts, images = ["Left?", f"{V}red?", "Blue or not?"], [[], pictures[:1], []]
    got = vlm.generate(prompts, images, n=3, max_new_tokens=20, seed=1)
    assert [len(row) for row in got] == [3, 3, 3]
    flat = [completion for row in got for completion in row]
    assert all(isinstance(c, Completion) for c in flat)
    assert len({tuple(c.tokens) for c in flat}) == 9
    for c in flat:
        assert len(c.tokens) == len(c.logprobs) and c.logprobs.dtype == np.float32
        assert all(type(t) is int for t in c.tokens)
        assert c.text == vlm.processor.decode(c.tokens)
        assert not set(c.tokens) & set(vlm.config.never_sampled)
        assert not set(c.tokens[:-1]) & set(vlm.processor.stop_ids)
    again = vlm.generate(prompts, images, n=3, max_new_tokens=20, seed=1)
    assert [[c.tokens for c in row] for row in again] == [[c.tokens for c in row] for row in got]
    other = vlm.generate(prompts, images, n=3, max_new_tokens=20, seed=2)
    assert [c.tokens for c in other[0]] != [c.tokens for c in got[0]]


def test_generated_logprobs_are_those_of_logprobs(vlm, pictures):
    prompts, images = ["Left?", f"{V}red?"], [[], pictures[:1]]
    got = vlm.generate(prompts, images, n=2, max_new_tokens=6, temperature=0.7)
    tokens = [[c.tokens for c in row] for row in got]
    found = vlm.logprobs(prompts, images, tokens, temperature=0.7)
    for row, logps in zip(got, found, strict=True):
        for c, expected in zip(row, logps, strict=True):
            np.testing.assert_allclose(c.logprobs, expected, atol=SAME)


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_that_of_transformers(vlm, pictures, tiny_hf, layer):
    import torch

    from tests.torch_reference import hf_inputs

    prompt, images = f"{V}red? {V}or blue?", pictures[:2]
    (e,) = vlm.encode([prompt], [images])
    inputs = hf_inputs(tiny_hf, [e.tokens], e.patches_PE, np.array(e.grids))
    with torch.no_grad():
        expected = tiny_hf(**inputs, output_attentions=True).attentions[layer][0].numpy()
    found = vlm.attention(prompt, images, layer)
    assert found.shape == (4, len(e.tokens), len(e.tokens)) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 weights of at most 1
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert np.ptp(expected[:, -1]) > 0.05  # far from uniform: a wrong one would show
    np.testing.assert_array_equal(vlm.attention(prompt, images, layer - 2), found)


def test_attention_and_streams_on_eight_devices(vlm, tiny_path, pictures):
    """Rows over fsdp, heads over tensor, kv heads repeated."""
    split = load(tiny_path, "float32", make_mesh(1, 2, 4))
    prompt, images = f"{V}red?", pictures[:1]
    found = split.attention(prompt, images)
    np.testing.assert_allclose(found, vlm.attention(prompt, images), atol=1e-5)
    settings = {"max_new_tokens": 11, "temperature": 0.0}
    one, other = ("".join(v.stream(prompt, images, **settings)) for v in (vlm, split))
    assert one == other


def test_attention_of_a_layer_that_is_not_there(vlm):
    for layer in (2, -3):
        with pytest.raises(UserError, match=f"layer {layer}: the decoder has 2, 0 to 1"):
            vlm.attention("a", layer=layer)


def test_finish_reasons(vlm):
    """Any token but one family stops: most completions end, with the stop token as the last."""
    stop = tuple(range(0, 300, 3))
    short = dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, stop_ids=stop))
    got = short.generate(["How many?"], n=8, max_new_tokens=3)[0]
    assert {c.finish_reason for c in got} == {"stop", "length"}
    for c in got:
        ended = c.tokens[-1] in stop
        assert c.finish_reason == ("stop" if ended else "length")
        assert ended or len(c.tokens) == 3


def test_text_leaves_special_tokens_out(vlm):
    ids = vlm.processor.tokenize("red") + [vlm.processor.stop_ids[0]]
    assert vlm.processor.decode(ids) == "red"


def test_logprobs_of_texts_and_of_tokens(vlm):
    prompts = ["How many?", "Which?"]
    texts = [["12.", "not red"], ["a"]]
    tokens = [[vlm.processor.tokenize(t) for t in row] for row in texts]
    a, b = (vlm.logprobs(prompts, None, x) for x in (texts, tokens))
    for row_a, row_b, row in zip(a, b, tokens, strict=True):
        assert [x.shape for x in row_a] == [(len(t),) for t in row]
        for x, y in zip(row_a, row_b, strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == np.float32 and (x < 0).all()


def test_logprobs_of_nothing(vlm):
    assert [[x.shape for x in row] for row in vlm.logprobs(["a", "b"], None, [[""], []])] == [
        [(0,)],
        [],
    ]
    some = vlm.logprobs(["a", "b", "c"], None, [[], ["", "red"], ["x"]])
    assert [[len(x) > 0 for x in row] for row in some] == [[], [False, True], [True]]


def test_more_prompts_than_fit_at_once(vlm, monkeypatch):
    """Chunks are an inside matter: results are those of one call, in order."""
    prompts = ["a", "Blue?", "How many?", "c d", "Which shape?"]
    completions = [["x"], ["red", "12"], [], ["y"], ["left"]]

    def everything():
        generated = vlm.generate(prompts, n=2, max_new_tokens=4)
        return (
            vlm.logits(prompts),
            [[c.logprobs for c in row] for row in generated],
            vlm.logprobs(prompts, None, completions),
        ), [[c.tokens for c in row] for row in generated]

    whole, whole_tokens = everything()
    monkeypatch.setattr(batching, "ROWS_A_DEVICE", 2)
    parts, part_tokens = everything()
    assert whole_tokens == part_tokens
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    assert len(whole[0]) == len(prompts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=SAME), whole, parts)


def test_a_second_call_compiles_nothing(vlm, caplog):
    def call(seed):
        vlm.generate(["Left?", "Right?"], max_new_tokens=3, seed=seed)
        vlm.logits([f"{seed}", "b"])
        vlm.logprobs(["a", "b"], None, [["x"], ["y" * (seed + 1)]])
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    with jax.log_compiles():
        vlm.logits(["a", "b"] * 8)  # of a shape that no other test has: what a compile looks like
        assert any("jit(run)" in message for message in call(0))
        caplog.clear()
        assert call(1) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.logits("one"), "expected a list of prompts, found one string"),
        (lambda v: v.logits(["a", "b"], [[]]), "each of the 2 prompts, found 1"),
        (lambda v: v.logits([f"{V}a"], [[]]), r"1 <\|image_pad\|> for 0 images"),
        (
            lambda v: v.logits([f"{V}a"], ["a.png"]),
            "expected a list for each prompt, found 'a.png'",
        ),
        (lambda v: v.generate(["a"], n=0), "n=0"),
        (lambda v: v.generate(["a"], max_new_tokens=0), "max_new_tokens=0"),
        (lambda v: v.generate(["a"], temperature=-1), "temperature=-1"),
        (lambda v: v.generate(["a"], top_p=0), "top_p=0"),
        (lambda v: v.generate(["a"], top_k=-1), "top_k=-1"),
        (lambda v: v.logprobs(["a"], None, []), "each of the 1 prompts, found"),
        (lambda v: v.logprobs(["a"], None, ["b"]), r"a list .* 1 prompts, found 1: 'b'"),
        (lambda v: v.logprobs(["a"], None, [["b"]], temperature=0), "temperature"),
        (lambda v: v.logprobs(["a"], None, [[[320]]]), "320"),
        (lambda v: v.logits([""]), "prompt is empty"),
    ],
)
def test_mistakes(vlm, call, message):
    with pytest.raises(UserError, match=message):
        call(vlm)


def test_prompts_are_encoded_a_few_batches_ahead_and_no_more(vlm, monkeypatch):
    """However many there are; and the batch follows the mesh, the memory and what is asked."""
    from jaxvl.data.prompts import Processor

    monkeypatch.setattr(batching, "ROWS_A_DEVICE", 2)
    begun, encode = [], Processor.encode

    def counted(self, prompt, images):
        begun.append(prompt)
        return encode(self, prompt, images)

    monkeypatch.setattr(Processor, "encode", counted)
    pairs = [(f"number {i}", []) for i in range(60)]
    with jax.set_mesh(vlm.mesh):
        for taken, (prompt, numbers, _) in enumerate(batching.batches(vlm, pairs), start=1):
            assert len(numbers) == len(prompt.tokens) == 2
            assert len(begun) <= 2 * taken + 2 * 2 + 1
    # Threads begin with them side by side, so neighbours may change places.
    assert sorted(begun) == sorted(prompt for prompt, _ in pairs) and taken == 30


@pytest.mark.parametrize(
    ("limit", "rows"), [(None, 16), (10**12, 16), (10**7, 8), (6 * 10**6, 4), (10**6, 1), (1, 1)]
)
def test_a_batch_fits_the_memory(vlm, monkeypatch, limit, rows):
    held = sum(x.nbytes for x in jax.tree.leaves(vlm.params))
    stats = None if limit is None else {"bytes_limit": held + limit}
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    seen = types.SimpleNamespace(
        config=vlm.config,
        params=vlm.params,
        dtype="float32",
        mesh=types.SimpleNamespace(local_devices=[device]),
    )
    found = batching.rows_a_device(seen, (64, 64), 4, 64, False)
    assert found == rows and batching.rows_a_device(seen, (640, 640), 4, 64, True) <= rows


def test_a_batch_follows_the_mesh(tiny_path):
    wide = load(tiny_path, "float32", make_mesh(2, 2, 1, jax.devices()[:4]))
    pairs = [("left or right", [])] * 70
    with jax.set_mesh(wide.mesh):
        sizes = [len(numbers) for _, numbers, _ in batching.batches(wide, pairs)]
        shapes = [len(prompt.tokens) for prompt, _, _ in batching.batches(wide, pairs[:5])]
    assert sizes == [64, 6] and shapes == [8]


BLIND = [
    (["<image>How many?"], None, "0 <|image_pad|> and 1 <image>"),
    ([f"{V}How many?"], None, "1 <|image_pad|> for 0 images"),
    ([f"{V}<image><image>Which?"], 1, "2 <image>"),
    ([[{"role": "user", "content": "<image> How many?"}]], None, "1 <image>"),
    ([[{"role": "user", "content": "<image> How many?"}]], 1, ": 1, pictures: 0|: 0, pictures: 1"),
    ([MESSAGES], None, r"places for pictures .*: 1, pictures: 0"),
    ([MESSAGES], 2, r"places for pictures .*: 1, pictures: 2"),
    (
        [
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x/a"}}],
                }
            ]
        ],
        None,
        "nothing is fetched",
    ),
]


@pytest.mark.parametrize(("prompts", "count", "message"), BLIND, ids=range(len(BLIND)))
def test_no_model_is_asked_blind(vlm, pictures, prompts, count, message):
    images = None if count is None else [pictures[:count]]
    calls = (
        lambda: vlm.generate(prompts, images, max_new_tokens=1),
        lambda: list(vlm.stream(prompts[0], (images or [[]])[0], max_new_tokens=1)),
        lambda: vlm.logits(prompts, images),
        lambda: vlm.logprobs(prompts, images, [["x"]]),
        lambda: vlm.attention(prompts[0], (images or [[]])[0]),
    )
    for call in calls:
        with pytest.raises(UserError, match=message.replace("|image_pad|", r"\|image_pad\|")):
            call()


def test_pictures_in_messages_are_those_beside_them(vlm, pictures):
    import base64
    import io

    data = io.BytesIO()
    pictures[0].save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    expected = vlm.logits([MESSAGES], [pictures[:1]])[0]
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "image", "image": pictures[0]},
        {"type": "image", "image": url},
        {"type": "image", "base64": url.partition(",")[2]},
        {"type": "image", "image": {"bytes": data.getvalue(), "path": None}},
    ):
        said = [{"role": "user", "content": [part, {"type": "text", "text": "left?"}]}]
        for images in (None, [[]], [pictures[:1]]):
            np.testing.assert_array_equal(vlm.logits([said], images)[0], expected)
