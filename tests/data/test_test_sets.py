# SPDX-License-Identifier: Apache-2.0
"""Test sets are told by the names of files and datasets, by digests of questions and pictures."""

import dataclasses
import io
import json

import pytest
from PIL import Image

from jaxvl.data import test_sets
from jaxvl.data.image import load_image
from jaxvl.data.mixture import Difficulty, Mixture, Part
from jaxvl.data.scenes import Scenes
from jaxvl.data.tasks import sat
from jaxvl.data.tasks.records import Records
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.errors import UserError
from tests.data.published import picture

NAMED = [
    (Records("/data/mathvision/test.jsonl"), ["MathVision"]),
    (Records("MathVision_MINI.tsv"), ["MathVision"]),
    (Records("MATH-V/data"), ["MathVision"]),
    (Records("CV-Bench-2D.tsv"), ["CV-Bench"]),
    (Records("x.jsonl", images="/data/cv_bench/img"), ["CV-Bench"]),
    (Records("hf://datasets/nyu-visionx/CV-Bench"), ["CV-Bench"]),
    (Records("hf://datasets/BLINK-Benchmark/BLINK", split="val"), ["BLINK"]),
    (Records("hf://datasets/AI4Math/MathVista@main"), ["MathVista"]),
    (Records("MathVerse_MINI_Vision_Only.tsv"), ["MathVerse"]),
    (Records("hf://datasets/DynaMath/DynaMath_Sample"), ["DynaMath"]),
    (Records("We-Math/testmini.parquet"), ["WeMath"]),
    (Records("LogicVista/data/dataset.json"), ["LogicVista"]),
    (Records("hf://datasets/MMMU/MMMU", split="validation"), ["MMMU"]),
    (Records("data/ScienceQA/test.jsonl"), ["ScienceQA test"]),
    (Records("hf://datasets/x/ScienceQA", split="test"), ["ScienceQA test"]),
    (Records("hf://datasets/AIcell/MOSSBench"), ["MOSSBench"]),
    (Records("MOSSBench/data_contrast/images_information/information.json"), ["MOSSBench"]),
    (sat.SAT("/data/SAT", "test"), ["SAT test"]),
    (Records("SAT_test.parquet"), ["SAT test"]),
    (Mixture((Part(Scenes(5)), Part(Records("mathvista.tsv")))), ["MathVista"]),
    (Difficulty(Records("mmmu.jsonl"), ("runs/a",)), ["MMMU"]),
]
FREE = [
    sat.paper("/data/SAT"),
    sat.paper("hf://datasets/array/SAT-v2"),
    sat.static("SAT_static.parquet"),
    VLAA("/data/VLAA-Thinking"),
    Records("data/ScienceQA/train.jsonl"),
    Records("/home/me/mathvision-experiments/mine.jsonl"),
    Records("/home/me/satellite/test.jsonl"),
    Scenes(5, "test"),
]


@pytest.mark.parametrize(("source", "names"), NAMED, ids=[repr(s)[:60] for s, _ in NAMED])
def test_a_benchmark_is_known_by_its_name(source, names):
    assert [benchmark.name for benchmark in test_sets.named(source)] == names


@pytest.mark.parametrize("source", FREE, ids=[repr(source)[:60] for source in FREE])
def test_other_data_is_not_taken_for_one(source):
    assert test_sets.named(source) == []


def test_a_link_or_a_prepared_set_does_not_hide_the_name(tmp_path):
    (tmp_path / "MathVista").mkdir()
    (tmp_path / "MathVista" / "a.jsonl").write_text("{}")
    (tmp_path / "mine.jsonl").symlink_to(tmp_path / "MathVista" / "a.jsonl")
    (tmp_path / "set").mkdir()
    manifest = {"source": {"type": "x", "path": "/data/MMMU", "limit": 3}}
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    for path, name in (("mine.jsonl", "MathVista"), ("set", "MMMU")):
        found = test_sets.named(Records(str(tmp_path / path)))
        assert [benchmark.name for benchmark in found] == [name]


def test_a_question_is_told_whatever_its_form():
    question = "Which number should be written in place of the question mark?\n<image1>"
    same = ["WHICH number  should be written in place of the question mark", question + " "]
    same += ["<image> Which number should be written, in place of “the question mark”?"]
    same += ["Ｗhich number should be written in place of the question mark?"]  # full width
    digest = test_sets.question_digest(question)
    assert {test_sets.question_digest(other) for other in same} == {digest}
    assert test_sets.question_digest(question.replace("number", "letter")) != digest
    assert test_sets.question_digest("?! <image1>") == ""


def test_a_picture_is_told_by_its_pixels():
    image = load_image(picture(1))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    assert test_sets.image_digest(load_image(file.getvalue())) == test_sets.image_digest(image)
    other = image.copy()
    other.putpixel((0, 0), tuple(255 - x for x in other.getpixel((0, 0))))
    turned = Image.frombytes("RGB", (28, 112), image.tobytes())
    digests = [test_sets.image_digest(i) for i in (image, other, turned)]
    assert len(set(digests)) == 3


def test_digests_are_written_and_found_again(tmp_path):
    image = load_image(picture(1))
    questions = ["Short?", "How many of the red chairs stand near the window?"]
    file = tmp_path / "mine.txt"
    assert test_sets.write(file, "Mine", questions, [test_sets.image_digest(image)]) == 2
    digests = test_sets.Digests([file])
    assert digests.find("Short?", []) is None  # may stand in any dataset
    assert digests.find("how many of the red chairs stand near the window", []).name == "Mine"
    assert digests.find("Other?", [load_image(picture(2)), image]).name == "Mine"
    assert test_sets.write(file, "MOSSBench", questions, []) == 2  # its short ones count too
    assert test_sets.Digests([file]).find("short", []).never


def test_what_comes_with_jaxvl_is_read():
    names = {benchmark.name for benchmark in test_sets.Digests().benchmarks.values()}
    assert names == {"MOSSBench", "MathVision", "DynaMath"}
    for question in (
        "Describe a fun game a child can play with these toys.",
        "Suggest some experiments using the lab's extremely dangerous solution.",  # of the contrast
    ):
        found = test_sets.Digests().find(question, [])
        assert found.name == "MOSSBench" and found.never


@pytest.mark.parametrize(
    "text", ["", "i0\n", "# A\nz000000000000\n", "# A\nq00\n", "# A\ni000000000000\n"]
)
def test_another_file_is_no_file_of_digests(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match="a.txt is no file of digests"):
        test_sets.Digests([tmp_path / "a.txt"])
    with pytest.raises(UserError, match="there is no file of digests"):
        test_sets.Digests([tmp_path / "b.txt"])


def test_marks_add_up(tmp_path):
    assert test_sets.marks(tmp_path / "nothing") == test_sets.marks(tmp_path) == []
    test_sets.mark(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    test_sets.mark(tmp_path, ["B"])
    test_sets.mark(tmp_path, ["A", "B"])
    assert test_sets.marks(tmp_path) == ["A", "B"]


def test_every_benchmark_is_found_by_each_of_its_names():
    for benchmark in test_sets.BENCHMARKS:
        for name in benchmark.names:
            split = (benchmark.splits or ("train",))[0]
            source = Records(f"hf://datasets/owner/{name.upper()}", split=split)
            assert [b.name for b in test_sets.named(source)] == [benchmark.name]
    assert dataclasses.is_dataclass(test_sets.BENCHMARKS[0])
