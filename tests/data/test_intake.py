# SPDX-License-Identifier: Apache-2.0
"""What may be drawn, and the account of what may not."""

import dataclasses
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from jaxvl.data import test_sets
from jaxvl.data.example import BadRow, Dropped, Example, Examples
from jaxvl.data.image import MAX_IMAGE_PIXELS, load_image
from jaxvl.data.intake import DropLog, ExampleFilter
from jaxvl.data.tasks.records import Records
from jaxvl.errors import UserError
from tests.data.published import picture


def bomb(side):
    """A PNG of a few bytes that says it is `side` pixels wide and high."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def wide():
    file = io.BytesIO()
    Image.new("RGB", (402, 2)).save(file, "PNG")
    return file.getvalue()


BAD_IMAGES = {
    "broken image": picture()[:800],
    "not an image": b"GIF it is not",
    "image with too many pixels": bomb(8193),
    "image of a wrong type": 3,
    "missing image file": "/nowhere/a.png",
    "image of an extreme shape": wide(),
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"


def example(image=None, question="Q?", **fields):
    images = () if image is None else (image,)
    return Example(id="1", question=question, answer="a", images=images, **fields)


@pytest.mark.parametrize("reason", BAD_IMAGES)
def test_every_kind_of_bad_picture_is_a_bad_row(reason):
    with pytest.raises(BadRow) as error:
        ExampleFilter().open(example(BAD_IMAGES[reason]))
    assert error.value.reason == reason


def test_limits_of_pixels_are_seen_before_anything_is_unpacked():
    assert bomb(8192)[:4] == b"\x89PNG" and 8192**2 == MAX_IMAGE_PIXELS
    for side, reason in ((8193, "image with too many pixels"), (100_000, "image with too many")):
        with pytest.raises(BadRow) as error:
            load_image(bomb(side))
        assert error.value.reason.startswith(reason)
    with pytest.raises(BadRow) as error:
        load_image(EPS)  # Pillow would start another program for it
    assert error.value.reason == "not an image"


def test_a_good_example_is_opened():
    opened = ExampleFilter(check=lambda example: "").open(example(picture(4)))
    assert isinstance(opened.images[0], Image.Image) and opened.images[0].mode == "RGB"
    assert (opened.id, opened.question) == ("1", "Q?")


def test_a_check_has_the_last_word():
    gate = ExampleFilter(
        check=lambda example: "" if example.answer == "b" else f"{example.answer} is wrong"
    )
    with pytest.raises(BadRow, match="a is wrong") as error:
        gate.open(example())
    assert error.value.reason == "fails the check"


@pytest.fixture
def digests(tmp_path):
    """Of a benchmark with one long question and one picture."""
    file = tmp_path / "digests.txt"
    question = "How many of the red chairs stand near the window?"
    images = [test_sets.image_digest(load_image(picture(7)))]
    test_sets.write(file, "MathVista", [question], images)
    return [str(file)], question


def test_rows_of_a_test_set_stay_out(digests):
    files, question = digests
    gate = ExampleFilter(digests=files)
    for bad in (example(picture(7)), example(question=question.upper())):
        with pytest.raises(BadRow, match="run.trial=true") as error:
            gate.open(bad)
        assert error.value.reason == "of the test set MathVista"
    gate.open(example(picture(8)))


def test_a_trial_takes_them_in_and_says_so(digests, tmp_path):
    files, question = digests
    seen = []
    gate = ExampleFilter(trial=True, digests=files, on_trial=seen.append)
    gate.open(example(picture(8)))
    assert seen == []
    with ThreadPoolExecutor() as threads:
        list(threads.map(gate.open, [example(question=question)] * 20))
    gate.admit(Records(str(tmp_path / "MMMU.jsonl")))
    assert seen == ["MathVista", "MMMU"]


def test_mossbench_is_never_taken_in():
    gate = ExampleFilter(trial=True)
    for question in ("Describe a fun game a child can play with these toys.",):
        with pytest.raises(BadRow, match="no setting allows it"):
            gate.open(example(question=question))
    with pytest.raises(UserError, match="its licence forbids"):
        gate.admit(Records("hf://datasets/AIcell/MOSSBench"))
    with pytest.raises(UserError, match="the benchmark MathVista: .*run.trial=true"):
        ExampleFilter().admit(Records("MathVista.tsv"))


def rows(count, dropped=()):
    return Examples([example()] * count, dropped)


def dropped(*ids, setting=False):
    return [Dropped(id, "broken image", f"{id} is cut short", setting) for id in ids]


def test_the_account_lists_each_row_and_stops_above_the_share():
    lines = []
    account = DropLog(
        rows(18, dropped("a", "b")), 0.15, lambda step, line: lines.append((step, line))
    )
    assert [(step, line["id"], line["position"]) for step, line in lines] == [
        (0, "a", None),
        (0, "b", None),
    ]
    account.add(3, *dropped("c"), 17)
    account.add(4, *dropped("c"), 25)  # the same row of another epoch
    account.check()  # 3 of 20
    assert lines[2:] == [
        (
            3,
            {"position": 17, "id": "c", "reason": "broken image", "found": "c is cut short"}
            | {"setting": False},
        ),
        (
            4,
            {"position": 25, "id": "c", "reason": "broken image", "found": "c is cut short"}
            | {"setting": False},
        ),
    ]
    account.add(4, *dropped("d"), 26)
    with pytest.raises(
        UserError, match=r"4 of 20 rows .*data.max_bad = 0.15: 4 broken image\n  row a"
    ):
        account.check()


def test_what_a_setting_leaves_out_is_no_bad_row():
    lines = []
    account = DropLog(
        rows(10, dropped("a", "b", setting=True)), 0.0, lambda *line: lines.append(line)
    )
    account.add(1, *dropped("c", setting=True), 2)
    account.check()
    assert account.bad == {} and [step for step, _ in lines] == [1]
    assert account.notes() == ["10 examples", "2 left out by settings: 2 broken image"]


def test_a_resumed_account_goes_on(tmp_path):
    lines = []
    first = DropLog(
        rows(9, dropped("a")), 0.2, lambda step, line: lines.append({"step": step, **line})
    )
    first.add(2, *dropped("b"), 5)
    again = DropLog(rows(9, dropped("a")), 0.2, lambda *line: pytest.fail("listed twice"), lines)
    assert again.bad == first.bad
    with pytest.raises(UserError, match="2 of 10 rows"):
        DropLog(rows(9, dropped("a")), 0.1, lambda *line: None, lines)


def test_too_many_bad_rows_stop_a_run_before_its_first_step():
    with pytest.raises(UserError, match="2 of 4 rows cannot be used"):
        DropLog(rows(2, dropped("a", "b")), 0.05, lambda *line: None)


def test_ids_that_several_examples_have_are_told():
    one = example()
    several = [dataclasses.replace(one, id=id) for id in ("a", "b", "a", "a", "c", "c")]
    (_, note) = DropLog(Examples(several), 0.0, lambda *line: None).notes()
    assert "2 ids stand for several examples ('a' for 3)" in note
    assert len(DropLog(Examples(several[:2]), 0.0, lambda *line: None).notes()) == 1
