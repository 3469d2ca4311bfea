# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of load, generate, stream, logprobs, attention and save are told in words, before
anything is compiled or written; what is right in another form is taken."""

import os
import stat

import numpy as np
import pytest

import jaxvl
from jaxvl.errors import UserError

WHOLE = (None, "2", 1.5, 2.0, True, float("nan"), [1])
REAL = (None, "1", True, float("nan"), float("inf"), [1.0], np.zeros(2))


def said(role="user", content="hi"):
    return [[{"role": role, "content": content}]]


@pytest.mark.parametrize("given", [None, 3, 1.5, [], {}, "", np.zeros(3), b"a"])
def test_what_is_no_checkpoint(given):
    with pytest.raises(UserError, match="expected a checkpoint's directory or a hub id"):
        jaxvl.load(given)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dtype": None}, "dtype None"),
        ({"dtype": np.float32}, "dtype"),
        ({"mesh": 3}, "mesh: expected one of .* found 3"),
        ({"float32_head": "yes"}, "float32_head='yes': expected True or False"),
        ({"min_pixels": 3136.5}, "min_pixels=3136.5: expected a whole number of 1 or more"),
        ({"max_pixels": "3136"}, "max_pixels='3136'"),
        ({"max_pixels": -1}, "max_pixels=-1"),
    ],
)
def test_how_a_checkpoint_cannot_be_loaded(tiny_path, more, message):
    with pytest.raises(UserError, match=message):
        jaxvl.load(tiny_path, **more)


def test_urls_are_not_fetched(vlm):
    for url in ("https://huggingface.co/a/b", "gs://bucket/a"):
        with pytest.raises(UserError, match="a URL, and nothing is fetched"):
            jaxvl.load(url)
        with pytest.raises(UserError, match="expected a path on this machine, found the URL"):
            vlm.save(url)
    assert not os.path.exists("https:")


@pytest.mark.parametrize("name", ["n", "max_new_tokens", "top_k", "seed"])
def test_whole_numbers(vlm, name):
    for value in WHOLE:
        with pytest.raises(UserError, match=f"{name}=.*: expected a whole number"):
            vlm.generate(["a"], **{name: value})
    with pytest.raises(UserError, match="seed=.*expected a whole number"):
        vlm.generate(["a"], seed=2**70)


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_real_numbers(vlm, name):
    for value in REAL:
        with pytest.raises(UserError, match=f"{name}=.*: expected a number"):
            vlm.generate(["a"], **{name: value})


@pytest.mark.parametrize(
    "prompts",
    [None, 3, {"a": 1}, "one", [None], [3], np.zeros(1), [{"role": "user"}]],
)
def test_what_are_no_prompts(vlm, prompts):
    for call in (vlm.generate, vlm.logits, lambda p: vlm.logprobs(p, None, [["x"]])):
        with pytest.raises(UserError, match=r"expected (a list of prompts|text, or a list)"):
            call(prompts)


@pytest.mark.parametrize("role", ["human", None, 3, "", "User"])
def test_a_role_that_no_template_knows(vlm, role):
    with pytest.raises(UserError, match="message 0 has the role .*; expected one of system, user"):
        vlm.generate(said(role))
    with pytest.raises(UserError, match="message 0 has the role None"):
        vlm.generate([[{"content": "x"}]])


@pytest.mark.parametrize(
    "content",
    [None, 3, ["hello"], [None], [{"type": "text", "text": 3}], [{"type": "audio", "audio": "x"}]],
)
def test_a_content_that_would_be_lost(vlm, content):
    with pytest.raises(UserError, match="message 0 has the (content|part)"):
        vlm.generate(said(content=content))


@pytest.mark.parametrize(
    "images",
    [3, "a.png", [None], ["a.png"], np.zeros((1, 1, 4, 4, 3)), [[np.zeros((4, 4, 3))]], [[None]]],
)
def test_what_are_no_pictures(vlm, images):
    with pytest.raises(UserError, match=r"images: expected|expected a PIL image, a path or bytes"):
        vlm.generate(said(content=[{"type": "image"}]), images)


@pytest.mark.parametrize(
    "completions",
    [
        None,
        3,
        "x",
        [3],
        [[3]],
        [[None]],
        [[1, 2]],
        [[[1.5]]],
        [[["x"]]],
        [[[True]]],
        [[np.array([1.0])]],
        [[[-1]]],
    ],
)
def test_what_are_no_completions(vlm, completions):
    with pytest.raises(UserError, match="expected"):
        vlm.logprobs(["a"], None, completions)


def test_temperature_of_logprobs_and_a_layer(vlm):
    for value in (*REAL, -1, 0):
        with pytest.raises(UserError, match="temperature="):
            vlm.logprobs(["a"], None, [["x"]], temperature=value)
    for value in (None, 1.5, "0"):
        with pytest.raises(UserError, match="layer=.*expected a whole number"):
            vlm.attention("a", layer=value)
    with pytest.raises(UserError, match="adapted: expected a jaxvl.LoRA, found None"):
        vlm.adapted(None)
    with pytest.raises(UserError, match="number=-1"):
        vlm.stream("a", number=-1)


def test_completions_of_generate_are_taken_as_they_are(vlm):
    """And ids of numpy, which are whole numbers too."""
    prompts = ["Left?", "Right?"]
    got = vlm.generate(prompts, n=np.int64(2), max_new_tokens=6)
    found = vlm.logprobs(prompts, None, got)
    ids = vlm.logprobs(prompts, None, [[np.array(c.tokens) for c in row] for row in got])
    for row, logps, same in zip(got, found, ids, strict=True):
        for c, expected, other in zip(row, logps, same, strict=True):
            np.testing.assert_allclose(c.logprobs, expected, atol=1e-5)
            np.testing.assert_array_equal(expected, other)


def test_save_writes_over_nothing_and_for_everybody(vlm, tmp_path):
    for given in (None, 3, ""):
        with pytest.raises(UserError, match="expected a path"):
            vlm.save(given)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full/mine.txt"):
        with pytest.raises(UserError, match="exists and is not an empty directory"):
            vlm.save(taken)
    (tmp_path / "new").mkdir()
    vlm.save(tmp_path / "new")
    plain = tmp_path / "plain"
    plain.touch()
    expected = stat.S_IMODE(plain.stat().st_mode)
    files = list((tmp_path / "new").iterdir())
    assert len(files) > 3 and {stat.S_IMODE(file.stat().st_mode) for file in files} == {expected}


def test_public_names_are_those_of_the_config():
    from jaxvl import config

    assert set(config.__all__) - {"load", "BatchShape"} <= {
        *jaxvl.__all__,
        "Loss",
        "Part",
        "Projection",
    }
    assert jaxvl.Config is config.Config and callable(jaxvl.train) and callable(jaxvl.sft)
