# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's side files that cannot be: a message with the file, what is in it, what to do."""

import json
import time

import pytest

from jaxvl.data import template_probe
from jaxvl.data.prompts import Processor
from jaxvl.errors import UserError
from tests.data.test_prompts import TEMPLATE, make_checkpoint, write

NAN = float("nan")
IMAGES = {
    "patch_size": [0, -14, "14", 14.5, NAN, True, None, [14], 10**9],
    "merge_size": [0, -1, "2", 2.5, 10**5],
    "temporal_patch_size": [0, "2", 10**6],
    "min_pixels": [-1, 0, "3136", 3136.5, NAN, 10**12, [56, 56]],
    "max_pixels": [-1, 0, "big", NAN, 10**40, 100],
    "image_mean": [0.5, [0.5, 0.5], [0.1] * 4, ["a", "b", "c"], [0.5, NAN, 0.5], [], {}],
    "image_std": [[0.2, 0.3], [0, 1, 1], [0.2, -0.1, 0.2], [0.2, NAN, 0.2], [1e-30] * 3, "x"],
    "rescale_factor": [0, -1, NAN, float("inf"), "1/255", 1e300],
    "resample": [-1, 9, "bicubic", 2.5],
    "size": [224, "large", [1, 2], {"height": 3}],
    "do_resize": [False, "no", 0],
}
CASES = [(name, value) for name, values in IMAGES.items() for value in values]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def changed(checkpoint):
    """Writes fields into a file of the checkpoint, which is afterwards as it was."""
    before = {}

    def change(name, **fields):
        file = checkpoint / f"{name}.json"
        before.setdefault(file, file.read_bytes() if file.is_file() else None)
        found = json.loads(before[file] or b"{}")
        write(checkpoint, **{name: found | fields})
        return checkpoint

    yield change
    for file, data in before.items():
        file.unlink() if data is None else file.write_bytes(data)


def refusal(path):
    with pytest.raises(UserError) as told:
        Processor.from_pretrained(path)
    return str(told.value)


@pytest.fixture(scope="module")
def quick():
    """The tokenizer is not what is tried here, and takes its time to load."""
    from jaxvl.data.image_settings import read_settings

    return read_settings


@pytest.mark.parametrize(("field", "value"), CASES, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("name", ["preprocessor_config", "processor_config"])
def test_a_field_of_the_image_processor_that_cannot_be(changed, quick, name, field, value):
    fields = {field: value}
    path = changed(name, **(fields if name[:3] == "pre" else {"image_processor": fields}))
    if value is None:  # what is not said is the default
        assert quick(path).patch_size == 14
        return
    with pytest.raises(UserError) as told:
        quick(path)
    text = str(told.value)
    assert f"{name}.json" in text and ("expected" in text or "not supported" in text)
    assert field in text or field == "size"


def test_the_runs_own_limits_are_told_with_the_files(changed):
    path = changed("preprocessor_config", min_pixels=784, max_pixels=8000)
    with pytest.raises(UserError, match="the run's own max_pixels = 100: .*min_pixels is 784"):
        Processor.from_pretrained(path, max_pixels=100)
    with pytest.raises(UserError, match=r"own min_pixels = 0: min_pixels is 0; expected"):
        Processor.from_pretrained(path, min_pixels=0)


@pytest.mark.parametrize("value", ["<|im_end|>", 1.5, NAN, True, [None], [[1]], {"id": 1}])
def test_an_end_token_that_is_no_number(changed, value):
    path = changed("generation_config", eos_token_id=value)
    assert "generation_config.json: eos_token_id is " in refusal(path)


@pytest.mark.parametrize("value", [0, 27, -112, "112", 112.5, NAN, [112], 10**12])
def test_a_window_that_holds_no_merged_patch(changed, value):
    path = changed("config", model_type="qwen2_5_vl", vision_config={"window_size": value})
    assert "vision_config.window_size is " in refusal(path)


@pytest.mark.parametrize("name", ["text_config", "vision_config"])
def test_a_part_of_the_config_that_is_none(changed, name):
    path = changed("config", model_type="qwen2_5_vl", **{name: "x"})
    assert f"{name} is 'x'; expected an object" in refusal(path)


@pytest.mark.parametrize(
    "name", ["config", "generation_config", "preprocessor_config", "tokenizer_config"]
)
def test_a_key_that_stands_twice(checkpoint, name):
    file = checkpoint / f"{name}.json"
    before = file.read_bytes()
    file.write_bytes(b'{"x": 1, "x": [2], ' + before.strip()[1:])
    try:
        text = refusal(checkpoint)
    finally:
        file.write_bytes(before)
    assert (
        f"{name}.json" in text and "the key 'x' stands 2 times in an object, as 1 and [2]" in text
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tokenizer.json"], "has no tokenizer: expected tokenizer.json, or vocab.json and merges"),
        (["preprocessor_config.json"], "has no image processor"),
    ],
)
def test_a_file_that_is_missing(tmp_path, names, message):
    path = make_checkpoint(tmp_path / "c")
    for name in names:
        (path / name).unlink()
    text = refusal(path)
    assert message in text and "copy" in text


def test_a_tokenizer_that_is_broken_or_far_too_large(tmp_path):
    path = make_checkpoint(tmp_path / "c")
    file = path / "tokenizer.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    assert "tokenizer.json is not valid JSON" in refusal(path)
    with open(file, "ab") as opened:
        opened.truncate(2**40)  # holds nothing, and takes no space
    assert f"tokenizer.json has {2**40} bytes; expected at most" in refusal(path)
    file.write_text(whole)
    write(path, tokenizer_config={"auto_map": {"AutoTokenizer": ["x.T", None]}})
    (path / "x.py").write_text("raise SystemExit('this was run')")
    assert Processor.from_pretrained(path).tokenizer is not None


ENDLESS = {
    "a range": "{% for i in range(10**9) %}x{% endfor %}",
    "ranges": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
    "a text": "{{ 'x' * 10**11 }}",
    "doubled": (
        "{% set n = namespace(x='xxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}"
    ),
    "a number": "{{ 9 ** (9 ** 9) }}",
    "a macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "padding": "{{ 'x'|center(10**12) }}",
    "output": "{% for i in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}",
    "on a system turn": "{% if messages[0].role == 'system' %}{{ 'x' * 10**11 }}{% endif %}",
    "on an image": (
        "{% for m in messages %}{% if m.content is not string %}{{ 'x' * 10**11 }}{% endif %}"
        "{% endfor %}"
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_chat_template_that_does_not_end(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(template_probe, "_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(UserError, match="its chat template cannot be used: .*the published"):
        template_probe.check(tmp_path, ENDLESS[kind])
    assert time.monotonic() - start < template_probe._WAIT


@pytest.mark.parametrize("template", [3, [TEMPLATE], {"a": TEMPLATE}, "x" * 2**21])
def test_a_chat_template_that_is_none(tmp_path, template):
    with pytest.raises(UserError, match="its chat template"):
        template_probe.check(tmp_path, template)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        "{{ raise_exception('no system turns') }}",
        "{% generation %}{{ messages|length }}{% endgeneration %}{{ strftime_now('%d') }}",
        "{% for m in messages %}{% if loop.index0 > 1 %}{% break %}{% endif %}{{ m|tojson(indent=2)"
        " }}{% endfor %}",
        "{% broken",
        "",
    ],
)
def test_other_templates_pass(tmp_path, template):
    """Those that refuse these messages too: what they say of a prompt is told with the prompt."""
    template_probe.check(tmp_path, template)


def test_a_checkpoint_whose_template_does_not_end_is_not_opened(tmp_path):
    path = make_checkpoint(tmp_path / "c", template=ENDLESS["a text"])
    assert str(path) in refusal(path)
    write(path, chat_template={"chat_template": TEMPLATE})  # it wins
    assert Processor.from_pretrained(path).chat_template == TEMPLATE


@pytest.mark.parametrize("body", ["{{ 1 / 0 }}", "{{ messages[9].x.y }}", "{{ 'a' + 1 }}"])
def test_what_a_template_raises_is_told_with_the_messages(tmp_path, body):
    processor = Processor.from_pretrained(make_checkpoint(tmp_path / "c", template=body))
    with pytest.raises(UserError, match="the chat template cannot render .*'Q.'"):
        processor.render([{"role": "user", "content": "Q?"}])
