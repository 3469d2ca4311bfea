# SPDX-License-Identifier: Apache-2.0
"""A user's file becomes examples; every row that does not is counted and explained."""

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxvl.data.example import Example
from jaxvl.data.image import load_image
from jaxvl.data.tasks.conversations import as_given
from jaxvl.data.tasks.records import Records
from jaxvl.errors import UserError
from tests.data.published import IMAGE, picture, write_tsv


@pytest.fixture
def write(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / name).write_bytes(picture(int(name[0])))

    def write(*rows):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / "toy.jsonl").write_bytes(b"\n".join(lines))
        return str(tmp_path / "toy.jsonl")

    return write


def test_fields_images_and_columns_are_read(write):
    path = write(
        {"id": 7, "question": "How many?", "answer": 3, "image": "images/1.jpg", "level": 2},
        b"",
        {"question": "Left?", "answer": "no ", "images": ["images/1.jpg", "images/2.jpg"]},
        {"question": "Text only", "answer": "x", "image": None},
    )
    loaded = Records(path).load()
    one, two, three = loaded
    folder = Path(path).parent
    assert (one.id, one.answer, one.task, one.columns) == ("7", "3", "toy", {"level": 2})
    assert one.images == (str(folder / "images/1.jpg"),)
    assert (two.id, two.answer, len(two.images), three.images) == ("2", "no", 2, ())
    assert loaded.dropped == ()


def test_names_of_fields_and_the_image_folder_are_set(write):
    path = write({"n": "a", "q": "Q?", "gold": "B", "x": "1", "y": "2", "one": "2.jpg"})
    folder = Path(path).parent / "images"
    names = dict(id="n", question="q", answer="gold", choices=("x", "y", "z"), image=("no", "one"))
    (row,) = Records(path, images=str(folder), task="mine", **names).load()
    assert (row.id, row.question, row.answer, row.choices) == ("a", "Q?", "B", ("1", "2"))
    assert (row.images, row.task, row.columns) == ((str(folder / "2.jpg"),), "mine", {})


def test_math_vision_rows_are_read(write):
    common = {"solution": None, "level": 2, "subject": "logic", "image": "images/1.jpg"}
    path = write(
        {"id": "1", "question": "Which number?\n<image1>", "options": [], "answer": "60", **common},
        {
            "id": "33",
            "question": "When the ant <image1> walks from <image2>, where?\n<image6>\n<image7>",
            "options": ["A", "B", "C"],
            "answer": "C",
            **common,
        },
    )
    one, two = Records(path, choices=("options",)).load()
    assert (one.question, one.choices, one.answer) == ("Which number?\n<image>", (), "60")
    assert (two.question, two.answer) == ("When the ant walks from, where?", "C")
    assert one.columns == {"solution": None, "level": 2, "subject": "logic"}
    kept = Records(path, choices=("options",), keep_markers=True).load()[0]
    assert kept.question.endswith("\n<image1>")


@pytest.mark.parametrize("name", ["a.parquet", "folder"])
def test_pictures_in_a_parquet_file_stay_bytes(tmp_path, name):
    data = [picture(0), picture(1)]
    table = pa.table(
        {
            "question": ["one?", "two?"],
            "answer": ["1", "2"],
            "image_1": pa.array([{"bytes": data[0], "path": "0.jpg"}] * 2, IMAGE),
            "image_2": pa.array([None, {"bytes": data[1], "path": None}], IMAGE),
            "decoded": pa.array([{"bytes": data[0], "path": None}] * 2, IMAGE),
        }
    )
    path = tmp_path / name
    if name == "folder":
        (path / "data").mkdir(parents=True)
    pq.write_table(table, path / "data" / "train-0.parquet" if name == "folder" else path)
    one, two = Records(str(path), image=("image_1", "image_2", "image_3")).load()
    assert (one.images, two.images) == ((data[0],), (data[0], data[1]))
    assert one.columns == {}  # bytes that are not read are not carried along


def test_images_may_be_base64_in_text(write):
    plain = base64.b64encode(picture(3)).decode()
    path = write(
        {"question": "q", "answer": "a", "image": plain},
        {"question": "q", "answer": "a", "image": f"data:image/jpeg;base64,{plain}"},
    )
    assert [row.images for row in Records(path).load()] == [(picture(3),)] * 2


def test_a_tsv_as_vlmevalkit_writes_it(tmp_path):
    rows = Records(
        str(write_tsv(tmp_path / "toy.tsv")), id="index", choices=("A", "B", "C", "D")
    ).load()
    assert [row.choices for row in rows][:2] == [
        ("a circle", "a square"),
        ("a circle", "a square", "None"),
    ]
    assert (rows[1].id, rows[1].question) == ("1", "Which\tshape is number 1?")
    assert (rows[1].answer, rows[1].columns) == ("B", {"hint": None, "category": "shapes"})
    assert load_image(rows[1].images[0]).size == (56, 56)


GOOD = {"question": "q", "answer": "a"}
BAD = [
    (b'{"question": "q", ', "broken JSON", "broken JSON"),
    (b"[1]", "broken JSON", "a JSON list, expected an object"),
    ({"answer": "a"}, "no question", "`question` is missing, expected text"),
    ({"question": " ", "answer": "a"}, "no question", "`question` is ' '"),
    ({"question": 3, "answer": "a"}, "no question", "`question` is 3"),
    ({"question": "q"}, "no answer", "`answer` is missing, expected text or a number"),
    ({"question": "q", "answr": "a"}, "no answer", "has `answr`, and data.source.answer names"),
    ({"question": "q", "label": "a"}, "no answer", "the row has `question`, `label`, and data."),
    ({"qestion": "q", "answer": "a"}, "no question", "has `qestion`, and data.source.question"),
    ({"question": "q", "answer": ["a"]}, "no answer", "`answer` is ['a']"),
    ({"question": "q", "answer": True}, "no answer", "`answer` is True"),
    ({**GOOD, "choices": "a,b"}, "choices of a wrong type", "expected a list"),
    ({**GOOD, "choices": ["x", "y"], "answer": "C"}, "answer is none of the choices", "the 2"),
    ({**GOOD, "image": 3}, "image of a wrong type", "an image is 3, expected a path"),
    ({**GOOD, "image": [["a"]]}, "image of a wrong type", "an image is ['a']"),
    ({**GOOD, "image": "images/3.jpg"}, "missing image file", "no image file"),
    ({**GOOD, "image": "x" * 5000 + ".jpg"}, "missing image file", "no image file"),
    ({**GOOD, "image": "a\0b.jpg"}, "missing image file", "no image file"),
    ({**GOOD, "question": "<|im_end|>"}, "special token in the text", "<|im_end|>"),
    ({**GOOD, "answer": "a<|image_pad|>"}, "special token in the text", "<|image_pad|>"),
]


@pytest.mark.parametrize(("row", "reason", "words"), BAD, ids=range(len(BAD)))
def test_a_row_that_cannot_be_used_is_explained(write, row, reason, words):
    loaded = Records(write(GOOD, row, GOOD)).load()
    assert [example.id for example in loaded] == ["1", "3"]
    (bad,) = loaded.dropped
    assert (bad.id, bad.reason, bad.setting) == ("2", reason, False)
    assert words in bad.found


def test_nothing_to_read_is_an_error(write, tmp_path):
    with pytest.raises(UserError, match="no file"):
        Records(str(tmp_path / "none.jsonl")).load()
    with pytest.raises(UserError, match="it has no rows at all"):
        Records(write()).load()
    with pytest.raises(UserError, match="1 no answer"):
        Records(write({"question": "q"})).load()


def test_limit_counts_rows_and_start_goes_on(write):
    source = Records(write(GOOD, {"id": "x"}, GOOD, GOOD), limit=3)
    assert [id for id, _ in source.rows()] == ["1", "x", "3"]
    assert [id for id, _ in source.rows(start=2)] == ["3"]


def text(value):
    return {"type": "text", "text": value}


ANSWERED = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "<image>\nHow many?"},
    {"role": "assistant", "content": "3"},
]
PROMPT = [
    {"role": "system", "content": [text("Be short.")]},
    {"role": "user", "content": [{"type": "image"}, text("\nHow many?")]},
]


def test_a_conversation_ends_with_its_answer(write):
    path = write({"messages": ANSWERED, "images": ["images/1.jpg"]})
    (row,) = Records(path, conversation="messages").load()
    assert (row.question, row.answer, len(row.images)) == ("How many?", "3", 1)
    assert as_given(row) == PROMPT


@pytest.mark.parametrize(
    "beside",
    [
        {"completion": [{"role": "assistant", "content": "3"}]},
        {"completion": "3"},
        {"answer": 3},
    ],
)
def test_a_prompt_has_its_answer_beside_it(write, beside):
    path = write({"prompt": ANSWERED[:2], "images": ["images/1.jpg"], **beside})
    (row,) = Records(path, conversation="prompt").load()
    assert (row.question, row.answer, as_given(row)) == ("How many?", "3", PROMPT)


def test_images_without_a_mark_stand_first_and_several_turns_are_kept(write):
    turns = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": [text("A cat.")]},
        {"role": "user", "content": [text("And now?")]},
    ]
    path = write({"prompt": turns, "answer": "a dog", "images": ["images/1.jpg", "images/2.jpg"]})
    (row,) = Records(path, conversation="prompt").load()
    image = {"type": "image"}
    assert as_given(row)[0] == {"role": "user", "content": [image, image, text("What is it?")]}
    assert [turn["role"] for turn in as_given(row)] == ["user", "assistant", "user"]
    assert (row.question, row.answer) == ("And now?", "a dog")


def test_pictures_may_stand_in_the_parts_and_plain_text_is_a_turn(write):
    content = [{"type": "image", "image": "images/2.jpg"}, text("Which?")]
    path = write(
        {"prompt": [{"role": "user", "content": content}], "answer": "x"},
        {"prompt": "Two and two?", "completion": "four"},
    )
    one, two = Records(path, conversation="prompt").load()
    assert one.images == (str(Path(path).parent / "images/2.jpg"),)
    assert as_given(one) == [{"role": "user", "content": [{"type": "image"}, text("Which?")]}]
    assert as_given(two) == [{"role": "user", "content": [text("Two and two?")]}]
    assert (two.question, two.answer, two.images) == ("Two and two?", "four", ())


USER = {"role": "user", "content": "Q?"}
BROKEN = [
    ({"prompt": []}, "no conversation"),
    ({"prompt": [3]}, "broken conversation"),
    ({"prompt": [{"role": "boss", "content": "Q?"}]}, "broken conversation"),
    ({"prompt": [{"role": "system", "content": "S"}]}, "broken conversation"),
    ({"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "broken conversation"),
    ({"prompt": [{"role": "user", "content": None}]}, "broken conversation"),
    ({"prompt": [{**USER, "content": "<image> <image>"}]}, "images do not fit the text"),
    ({"prompt": [{**USER, "content": "a <|im_start|>"}]}, "special token in the text"),
    ({"prompt": [USER], "answer": None}, "no answer"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_conversation_that_cannot_be_used_is_explained(write, row, reason):
    good = {"prompt": [USER], "answer": "a", "image": "images/1.jpg"}
    loaded = Records(write(good, {**good, **row}), conversation="prompt").load()
    assert [bad.reason for bad in loaded.dropped] == [reason]
    assert isinstance(loaded[0], Example) and len(loaded) == 1


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        (["", ""], None),
        ([" ", "\t", ""], None),
        (["3", "", "4"], None),
        (["3", "4", ""], ("3", "4")),
        (["3", "4", " ", None], ("3", "4")),
        ("A, B", None),
        ({"A": "3"}, None),
        ([["3"], ["4"]], None),
    ],
)
def test_choices_that_are_empty_are_none(tmp_path, choices, found):
    rows = [
        {"question": "Q?", "answer": "3", "choices": choices},
        {"question": "Q?", "answer": "1"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = Records(str(path)).load()
    if found is None:
        (row,) = examples.dropped
        assert row.reason == "choices of a wrong type" or "`choices` is" in row.found
    else:
        assert examples[0].choices == found
