# SPDX-License-Identifier: Apache-2.0
"""A text has as many places as pictures, and these stand where they were written."""

import base64
import json

import pytest
from PIL import Image

from jaxvl.data import places
from jaxvl.data.example import BadRow, Example
from jaxvl.data.tasks.conversations import as_given
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import VLAA_SYSTEM, VisualThinker, chat_question, vlaa
from jaxvl.errors import UserError

V = "<|vision_start|><|image_pad|><|vision_end|>"
PICTURE = {"type": "image"}


@pytest.fixture
def write(tmp_path):
    for name in "abc":
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{name}.png")

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("question", "pictures", "expected", "order"),
    [
        ("<image>How many?", "a", "How many?", "a"),
        ("<image>\n<image> Which?", "ab", "Which?", "ab"),
        ("Is <image> like <image>?", "ab", "Is <image> like <image>?", "ab"),
        ("<image> Is it like <image>?", "ab", "<image> Is it like <image>?", "ab"),
        ("How many? <image>", "a", "How many? <image>", "a"),
        ("Is <img> red?", "a", "Is <image> red?", "a"),
        ("Is <Image 1> <IMAGE 2>?", "ab", "Is <image> <image>?", "ab"),
        ("Is <image2> like <image1>?", "ab", "Is <image> like <image>?", "ba"),
        ("<image1> x <image2>: is <image1> red?", "ab", "<image> x <image>: is image 1 red?", "ab"),
        ("No place at all", "ab", "No place at all", "ab"),
        ("From <image1> to <image2>\n<image3>", "a", "From to", "a"),
    ],
)
def test_pictures_stand_where_the_question_says(write, question, pictures, expected, order):
    names = [f"{name}.png" for name in pictures]
    (row,) = Records(write({"question": question, "answer": "1", "images": names})).load()
    assert row.question == expected
    assert [path[-5] for path in row.images] == list(order)


def test_a_choice_may_be_a_picture(write):
    row = {"question": "Which?", "choices": ["<image>", "<image>"], "answer": "A"}
    (one,) = Records(write({**row, "images": ["a.png", "b.png"]})).load()
    assert one.choices == ("<image>", "<image>") and len(one.images) == 2
    turn = chat_question(one)[0]["content"]
    assert [part["type"] for part in turn] == ["text", "image", "text", "image"]
    with pytest.raises(UserError, match="places for pictures .*: 2, pictures: 1"):
        Records(write({**row, "images": ["a.png"]})).load()


@pytest.mark.parametrize(
    "column",
    ["img", "picture", "image_file", "imagePath", "Image", "figures", "photo_1", "base_image"],
)
def test_the_column_that_may_hold_the_pictures_is_named(write, column):
    path = write({"question": "<image>How many?", "answer": "1", column: "a.png"})
    message = rf"places for pictures .*: 1, pictures: 0.*; the column `{column}`"
    with pytest.raises(UserError, match=message):
        Records(path).load()
    assert len(Records(path, image=(column,)).load()[0].images) == 1
    path = write({"question": "How many?", "answer": "1", column: ["a.png"]})
    with pytest.raises(UserError, match=f"`{column}` holds a picture and is not read"):
        Records(path).load()
    assert Records(path, image=()).load()[0].images == ()


@pytest.mark.parametrize("column", ["level", "imagination", "picturesque", "image_id", "caption"])
def test_other_columns_are_no_pictures(write, column):
    (row,) = Records(write({"question": "How many?", "answer": "1", column: "7"})).load()
    assert row.columns == {column: "7"}


@pytest.mark.parametrize(
    ("question", "pictures"),
    [
        ("<image>How many?", ""),
        ("<img>How many?", ""),
        ("<image1> How many?", ""),
        ("<image><image>Which?", "a"),
        ("Is <image> red?", "ab"),
        ("<image1> and <image3>", "ab"),
    ],
)
def test_a_difference_costs_the_row(write, question, pictures):
    good = {"question": "How many?", "answer": "1"}
    bad = {**good, "question": question, "images": [f"{name}.png" for name in pictures]}
    loaded = Records(write(good, bad)).load()
    assert [row.reason for row in loaded.dropped] == ["images do not fit the text"]


def url(name, folder):
    return "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()


def test_a_conversation_may_have_pictures_in_openais_form(write, tmp_path):
    write()
    data = url("a.png", tmp_path)
    parts = [
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "image_url", "image_url": {"url": data, "detail": "low"}},
        {"type": "image_url", "image_url": data},
        {"type": "input_image", "image_url": data},
        {"type": "image", "image": data},
        {"type": "image", "source": {"type": "base64", "data": data.partition(",")[2]}},
        {"type": "image", "image": None, "text": None, "image_url": {"url": "file:a.png"}},
    ][:6]
    text = {"type": "text", "text": "How many?"}
    rows = [{"prompt": [{"role": "user", "content": [p, text]}], "answer": "1"} for p in parts]
    loaded = Records(write(*rows), conversation="prompt").load()
    assert len(loaded) == 6 and not loaded.dropped
    for row in loaded:
        assert row.images == ((tmp_path / "a.png").read_bytes(),)
        assert as_given(row) == [{"role": "user", "content": [PICTURE, text]}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}], "behind a URL"),
        ([{"type": "image_url", "image_url": "http://x.org/a.png"}], "behind a URL"),
        ([{"type": "image", "image": "https://x.org/a.png"}], "behind a URL"),
        ([{"type": "image", "path": "none.png"}], "missing image file"),
        ([{"type": "image"}], "do not fit"),
        ("<image>", "do not fit"),
        ("<img>", "do not fit"),
        ([{"type": "text", "text": "<image>"}], "do not fit"),
        ([{"type": "image", "path": "a.png"}, {"type": "text", "text": "<image>"}], "do not fit"),
    ],
)
def test_a_turn_without_its_picture_costs_the_row(write, content, reason):
    good = {"prompt": [{"role": "user", "content": "Q?"}], "answer": "1"}
    text = [{"type": "text", "text": "Q?"}]
    turn = f"{content}Q?" if isinstance(content, str) else content + text
    bad = {"prompt": [{"role": "user", "content": turn}], "answer": "1"}
    loaded = Records(write(good, bad), conversation="prompt").load()
    assert [reason in row.reason for row in loaded.dropped] == [True], loaded.dropped


def example(question, pictures=2):
    return Example("1", question, "a", images=(b"x",) * pictures)


def test_every_template_puts_pictures_where_they_stand():
    asked = example("Is <image> like <image>?")
    parts = [
        {"type": "text", "text": "Is "},
        PICTURE,
        {"type": "text", "text": " like "},
        PICTURE,
        {"type": "text", "text": "?"},
    ]
    assert chat_question(asked)[0]["content"] == parts
    system, user = vlaa(asked)
    assert system["content"] == VLAA_SYSTEM and user["content"] == parts
    direct = VisualThinker(base=False, form="direct")(asked)
    assert direct[0]["content"] == parts
    flat = VisualThinker(base=True)(asked)
    assert f"User: Is {V} like {V}? \nAssistant" in flat and flat.startswith("A conversation")
    # The word that is fed on purpose is no place.
    word = VisualThinker(base=True, literal=True)
    assert word(asked).startswith("<image>A conv") and word(asked).count(V) == 2
    assert word(example("Which?", 1)).startswith(f"{V}<image>A conversation")
    (turn,) = VisualThinker(base=False, form="direct", literal=True)(asked)
    assert turn["content"][0] == {"type": "text", "text": "<image>Is "}


@pytest.mark.parametrize(
    ("question", "pictures"), [("<image>?", 0), ("<image>?", 2), ("<image>" * 3, 2)]
)
def test_templates_count_too(question, pictures):
    for template in (chat_question, vlaa, VisualThinker(base=True), VisualThinker(base=False)):
        with pytest.raises(BadRow, match=f": {question.count('<image>')}, pictures: {pictures}"):
            template(example(question, pictures))


def test_the_pieces_of_a_text():
    assert places.split("no place", 3) == ["no place"]
    assert places.split("a<image>b", 1) == ["a", "b"]
