# SPDX-License-Identifier: Apache-2.0
"""Rows as their sources publish them."""

import base64
import io
import json

import pytest
from PIL import Image

from jaxvl.curate import metadata
from jaxvl.curate.metadata import Chosen
from jaxvl.curate.rows import read
from jaxvl.curate.sources import PAPER, read_row
from jaxvl.data.example import BadRow
from jaxvl.errors import UserError
from tests.curate.sets import jsonl, picture, talk, write_sets


def collected(name, rows, tmp_path, **chosen):
    for row in rows:
        if isinstance(row.get("image"), str):
            picture(tmp_path / row["image"], int("0" + (tmp_path / row["image"]).stem))
    paths = {name: str(jsonl(tmp_path / "rows.jsonl", rows))}
    return metadata.collect(paths, tmp_path / "out" / "images", Chosen(**chosen))


def test_each_published_form_gives_question_gold_type_and_what_a_step_may_use(tmp_path):
    paths = write_sets(tmp_path, 3)
    metadata.run(paths, tmp_path / "out" / "rows.jsonl", Chosen())
    rows = {row["id"]: row for row in read(tmp_path / "out" / "rows.jsonl")}
    got = {
        id: (r["gt"], r["verifier_type"], r.get("meta"), r.get("only")) for id, r in rows.items()
    }
    assert got["clevr_math-1"] == ("1", "digit", {"scene": "1 balls"}, None)
    assert got["synthesis-2"][:2] == ("$y=2x$", "math")
    assert got["synthesis-2"][2] == {"text_question": "y is 2 times x. What is y?"}
    assert got["arxivqa-0"] == ("B", "mcq", {"rationale": "It falls by 0."}, None)
    assert rows["arxivqa-0"]["question"] == "Which curve?\nA) up\nB) down"
    assert got["vizwiz-0"] == ("a can", "open", None, None)
    assert got["geoqa170k-0"] == ("B", "mcq", None, "rl")
    assert rows["geoqa170k-0"]["question"] == "Find the angle.\nA. 1\nB. 2"
    assert got["coco-1"][1] == "iou" and rows["coco-1"]["verified"] == "given"
    assert rows["coco-1"]["answer"] == f"<think>\nBox 1.\n</think>\n\n{rows['coco-1']['gt']}"
    assert all((tmp_path / "out" / "images" / row["image"]).is_file() for row in rows.values())


@pytest.mark.parametrize(
    ("name", "raw", "gold"),
    [
        ("own", {"question": "q", "answer": "down", "options": ["up", "down"]}, "B"),
        ("own", {"question": "q", "answer": "B", "choices": ["up", "down"]}, "B"),
        ("own", {"question": "q", "gt": 4, "verifier_type": "digit", "meta": "none"}, "4"),
        (
            "coco",
            {"image": "coco/1.png", "question": "q", "gt": [0.1, 0.2, 0.3, 0.4]},
            "[0.1, 0.2, 0.3, 0.4]",
        ),
        ("docvqa", {"question": "q", "answers": ["1994", "in 1994"]}, "1994"),
        ("vizwiz", {"question": "q", "answers": [{"answer": "x"}, {"answer": "y"}, "y"]}, "y"),
        ("allava_laion", {"conversations": talk("Why?", "Since.")}, "Since."),
        ("clevr_math", {"conversations": talk("q", "The answer is 6")}, "6"),
        ("clevr_math", {"conversations": talk("q", "Of 12 there are 10.")}, "10"),
        ("geoqa170k", {"conversations": talk("q", "The answer is (C).")}, "C"),
        ("geoqa170k", {"conversations": talk("q", "A or B? Answer: D")}, "D"),
    ],
)
def test_the_gold_of_a_row(name, raw, gold):
    assert read_row(raw, name)["gt"] == gold


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("own", {"question": "q", "gt": 4}),
        ("own", {"question": "", "gt": 4, "verifier_type": "digit"}),
        ("vizwiz", {"question": "q", "answers": [{"answer": "x"}], "answerable": 0}),
        ("docvqa", {"question": "q", "answers": []}),
        ("geoqa170k", {"conversations": talk("q", "I do not know.")}),
        ("coco", {"image": "coco/1.png", "conversations": talk("q", "Just so.")}),
        ("clevr_math", {"conversations": talk("q", "some, or 2.5")}),
        ("allava_laion", {"conversations": [{"from": "human", "value": "q"}]}),
        ("clevr_math", {"question": "<|im_end|>", "label": 3}),
        ("synthesis", {"question": "What is y?", "answer": "$2x$"}),
        ("synthesis", {"question": "What is y?", "answer": "$2x$", "text_question": " "}),
    ],
)
def test_a_row_that_lacks_something_is_dropped(name, raw):
    with pytest.raises(BadRow):
        read_row(raw, name)


def test_one_question_a_picture_by_a_draw_that_other_rows_do_not_change(tmp_path):
    rows = [
        {"image": f"{i % 7}.png", "question": f"q{i}", "gt": i, "verifier_type": "digit"}
        for i in range(40)
    ]
    kept, dropped = collected("own", rows, tmp_path)
    assert len(kept) == 7 and len({row["image"] for row in kept}) == 7
    assert {row["reason"] for row in dropped} == {"another question of its picture is taken"}
    again, _ = collected("own", rows + [rows[0] | {"image": "8.png"}], tmp_path)
    assert again[:7] == kept
    assert collected("own", rows, tmp_path, seed=1)[0] != kept
    assert len(collected("own", rows, tmp_path, all_questions=True)[0]) == 40
    few, over = collected("own", rows, tmp_path, first={"own": 3})
    assert len(few) == 3 and {row["id"] for row in few} <= {row["id"] for row in kept}
    assert len(over) == 37


@pytest.mark.parametrize(
    "image", [None, "", "none.png", "../1.png", "/etc/hostname", ["1.png", "2.png"]]
)
def test_a_row_without_its_one_picture_is_dropped(image, tmp_path):
    picture(tmp_path / "1.png", 1)
    picture(tmp_path / "2.png", 1)
    row = {"image": image, "question": "q", "gt": 1, "verifier_type": "digit"}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    kept, dropped = metadata.collect({"own": str(path)}, tmp_path / "images", Chosen())
    assert not kept and len(dropped) == 1


@pytest.mark.parametrize(
    "image", ["a/1.png", "/a/1.png", "//a/1.png", "{folder}/a/1.png", "a//1.png"]
)
def test_a_picture_is_found_below_the_folder_however_its_path_begins(image, tmp_path):
    picture(tmp_path / "a" / "1.png", 1)
    row = {"image": image.format(folder=tmp_path), "question": "q", "label": 1}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    ((kept,), _) = metadata.collect({"clevr_math": str(path)}, tmp_path / "images", Chosen())
    assert kept["image"] == "clevr_math/a/1.png"


def test_pictures_that_rows_hold_become_files(tmp_path):
    import pyarrow
    import pyarrow.parquet

    data = []
    for i in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (i, 0, 0)).save(buffer, "PNG")
        data.append(buffer.getvalue())
    rows = [
        {"image": {"bytes": d, "path": None}, "question": "q", "label": i}
        for i, d in enumerate(data)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    paths = {"clevr_math": str(tmp_path / "a.parquet")}
    for _ in range(2):
        kept, _ = metadata.collect(paths, tmp_path / "images", Chosen())
    assert [(tmp_path / "images" / row["image"]).read_bytes() for row in kept] == data


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("head", ["", "data:image/x;base64,"])
def test_pictures_as_base64_text_become_files(kind, head, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (7, 0, 0)).save(buffer, kind)
    text = head + base64.b64encode(buffer.getvalue()).decode()
    path = jsonl(tmp_path / "rows.jsonl", [{"image": text, "question": "q", "label": 1}])
    ((kept,), _) = metadata.collect({"clevr_math": str(path)}, tmp_path / "images", Chosen())
    assert (tmp_path / "images" / kept["image"]).read_bytes() == buffer.getvalue()


def test_captions_that_a_source_has_already(tmp_path):
    rows = [{"image": f"{i}.png", "conversations": talk("q", "a")} for i in range(3)]
    captions = jsonl(
        tmp_path / "c.jsonl",
        [
            {"image": "0.png", "caption": "zero"},
            {"image": "1.png", "conversations": talk("?", "one")},
        ],
    )
    given = {"allava_laion": str(captions)}
    kept, _ = collected("allava_laion", rows, tmp_path, captions=given)
    assert [row.get("caption") for row in kept] == ["zero", "one", None]


GOOD = {"image": "0.png", "caption": "zero"}


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ("{", "broken JSON"),
        ("[1]", "expected an object"),
        ({"image": "1.png", "conversations": [{"from": "human", "value": "q"}]}, "no turn of gpt"),
        ({"image": "1.png", "conversations": talk("q", "a <|im_end|>")}, "special token"),
        ({"image": "1.png", "caption": "a <|im_end|>"}, "special token"),
        ({"image": "1.png", "caption": ["a"]}, "`caption` is ['a']"),
        ({"caption": "a"}, "`image` is missing"),
    ],
)
def test_a_row_of_captions_that_cannot_be_read_is_listed(bad, found, tmp_path):
    path = jsonl(tmp_path / "c.jsonl", [GOOD])
    path.write_text(path.read_text() + (bad if isinstance(bad, str) else json.dumps(bad)) + "\n")
    rows = [{"image": f"{i}.png", "conversations": talk("q", "a")} for i in range(2)]
    given = {"allava_laion": str(path)}
    kept, (drop,) = collected("allava_laion", rows, tmp_path, captions=given)
    assert [row.get("caption") for row in kept] == ["zero", None]
    assert drop["reason"] == "caption cannot be read" and drop["source"] == "allava_laion"
    assert "row 2 of the file of captions" in drop["found"] and found in drop["found"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "x/0.png", "caption": "c"}, "it names 'x/0.png' and the source '0.png'"),
        ({"image": "0.png"}, "1 rows cannot be read; row 1: `caption` is missing"),
    ],
)
def test_captions_of_no_picture_of_the_source_are_a_message(row, message, tmp_path):
    given = {"allava_laion": str(jsonl(tmp_path / "c.jsonl", [row]))}
    rows = [{"image": "0.png", "conversations": talk("q", "a")}]
    with pytest.raises(UserError, match=f"none of its . captions is of an image .*{message}"):
        collected("allava_laion", rows, tmp_path, captions=given)


def own(options, gold, **more):
    return read_row({"question": "q", "answer": gold, "options": options} | more, "own")


@pytest.mark.parametrize(
    ("options", "gold", "letter", "shown"),
    [
        (["up", "down", None, " "], "down", "B", "q\nA. up\nB. down"),
        (["up", "down"], "b", "b", "q\nA. up\nB. down"),
        (["A) up", "B) down"], "down", "B", "q\nA) up\nB) down"),
        (["A) up", "B) down"], "B) down", "B) down", "q\nA) up\nB) down"),
        (["A) up", "C) down"], "C", "C", "q\nA) up\nC) down"),
        ([1, 2.5], "2.50", "B", "q\nA. 1\nB. 2.5"),
        (["A", "B", "C"], "C", "C", "q"),
    ],
)
def test_options_and_the_letter_of_the_gold(options, gold, letter, shown):
    row = own(options, gold)
    assert (row["gt"], row["question"]) == (letter, shown)


@pytest.mark.parametrize(
    ("options", "gold", "reason"),
    [
        (["up", None, "down"], "up", "choices of a wrong type"),
        (["up", "down"], "left", "answer is none of the choices"),
        (["up", "down"], "C", "answer is none of the choices"),
        ([str(n) for n in range(30)], "7", "too many choices"),
        ("A. up B. down", "A", "choices of a wrong type"),
    ],
)
def test_options_that_cannot_be_and_a_gold_that_is_none_of_them_drop_the_row(options, gold, reason):
    with pytest.raises(BadRow) as told:
        own(options, gold)
    assert told.value.reason == reason


def test_options_that_are_missing_are_none():
    for none in (None, [], "", [None, None], float("nan")):
        assert own(none, "7", verifier_type="digit")["question"] == "q"


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("name", ["scene", "rationale"])
def test_facts_that_are_no_text_are_given_as_json(name, nested):
    facts = {name: {"objects": [{"shape": "cube", "size": 3}], "light": "größer"}}
    raw = {"question": "q", "label": 3} | ({"meta": facts} if nested else facts)
    text = '{"objects": [{"shape": "cube", "size": 3}], "light": "größer"}'
    assert read_row(raw, "clevr_math")["meta"] == {name: text}
    assert "meta" not in read_row({"question": "q", "label": 3, name: []}, "clevr_math")


@pytest.mark.parametrize("name", ["caption", "ds_answer", "text_question"])
def test_texts_that_are_none_are_not_passed_over(name):
    with pytest.raises(BadRow, match=rf"`{name}` is \['a'\], expected text"):
        read_row({"question": "q", "label": 3, name: ["a"]}, "clevr_math")


def test_a_source_that_has_no_row_and_other_wrong_calls_are_named(tmp_path):
    rows = [{"image": "other/1.png", "conversations": talk("q", "a")}]
    with pytest.raises(UserError, match="no row of coco"):
        collected("coco", rows, tmp_path)
    with pytest.raises(UserError, match="no source"):
        metadata.run({}, tmp_path / "rows.jsonl", Chosen())
    with pytest.raises(UserError, match="name with .jsonl"):
        metadata.run({"coco": "rows.jsonl"}, tmp_path / "rows.txt", Chosen())
    with pytest.raises(UserError, match="letters, digits"):
        collected("a/b", rows, tmp_path)


def test_the_sizes_are_those_of_table_1():
    columns = zip(*((f.original, f.pipeline, f.sft, f.rl) for f in PAPER.values()), strict=True)
    assert [sum(column) for column in columns] == [203_182, 144_895, 126_413, 25_195]
    assert all(facts.taken >= facts.sft + facts.rl for facts in PAPER.values())


def test_the_manifest_names_files_and_no_place_of_this_machine(tmp_path):
    paths = write_sets(tmp_path, 2)
    metadata.run(paths, tmp_path / "out" / "rows.jsonl", Chosen())
    text = (tmp_path / "out" / "rows.manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["rows_in"] == 12
