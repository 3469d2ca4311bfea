# SPDX-License-Identifier: Apache-2.0
"""Every benchmark in every format it is published in: the same questions, choices and golds."""

import importlib
import json
import pkgutil

import pytest

from jaxvl.data.image import load_image
from jaxvl.data.scenes import TASKS, Scenes
from jaxvl.errors import UserError
from jaxvl.eval import benchmarks
from jaxvl.eval.scoring.protocols import VISUALTHINKER
from tests.eval.benchmarks import published

EVERY = [(name, layout) for name, layouts in published.LAYOUTS.items() for layout in layouts]


def benchmark(name):
    return importlib.import_module(f"jaxvl.eval.benchmarks.{name}").BENCHMARK


def read(name, layout, folder, protocol=None):
    """Items and dropped rows of a benchmark whose files are written into `folder`."""
    published.LAYOUTS[name][layout](folder)
    it = benchmark(name)
    return it.read(folder, protocol or next(iter(it.protocols)))


def test_a_benchmark_is_named_as_its_module():
    names = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    assert set(published.LAYOUTS) <= names
    for name in published.LAYOUTS:
        it = benchmark(name)
        assert it.name == name and it.title and it.protocols and it.metrics
        assert it.modes[:2] == ("strict", "lenient")


@pytest.mark.parametrize(("name", "layout"), EVERY, ids=" ".join)
def test_items_are_whole(name, layout, tmp_path):
    items, _ = read(name, layout, tmp_path)
    assert items and len({item.id for item in items}) == len(items)
    for item in items:
        json.dumps([item.prompt, dict(item.groups), dict(item.extra)])
        assert all(isinstance(value, str) for value in item.groups.values())
        assert set(item.groups) == set(items[0].groups)
        pictures = [load_image(image) for image in item.images]
        assert pictures or name == "scienceqa"
        assert marked(item.prompt) == len(pictures)
        letters = "ABCDEFGHIJ"[: len(item.choices)]
        if item.kind == "mcq" and item.choices and name not in ("logicvista", "own"):
            assert item.gold in letters
        elif item.choices and name in ("sat", "vsr"):
            assert item.gold in item.choices


def marked(prompt):
    """How many pictures a prompt has a place for."""
    if isinstance(prompt, str):
        return prompt.count("<|image_pad|>")
    return sum(part["type"] == "image" for part in prompt[-1]["content"])


# SAT's two versions are held to one another in tests/data/test_sat.py.
@pytest.mark.parametrize("name", sorted(published.LAYOUTS.keys() - {"sat", "vsr"}))
def test_the_formats_agree(name, tmp_path):
    found = {}
    for layout in published.LAYOUTS[name]:
        items, _ = read(name, layout, tmp_path / layout)
        pixels = [[load_image(image).size for image in item.images] for item in items]
        facts = [(item.gold, item.choices, item.kind) for item in items]
        rows = sorted(zip(facts, pixels, strict=True))
        if name == "scienceqa" and layout == "tsv":
            assert len(rows) == 2  # it has those with pictures only
            continue
        found[layout] = rows
    first, *others = found.values()
    if name == "mathverse":  # the options stand in `question_for_eval`, which every layout has
        assert any(choices for (_, choices, _), _ in first)
    assert others and all(rows == first for rows in others)


@pytest.mark.parametrize("name", published.LAYOUTS)
def test_every_protocol_asks(name, tmp_path):
    layout = next(iter(published.LAYOUTS[name]))
    published.LAYOUTS[name][layout](tmp_path)
    it = benchmark(name)
    plain = {}
    for protocol, about in it.protocols.items():
        items, _ = it.read(tmp_path, protocol)
        assert about and all(marked(item.prompt) == len(item.images) for item in items)
        assert isinstance(items[0].prompt, str) == protocol.startswith("visualthinker-base")
        plain[protocol] = json.dumps([item.prompt for item in items])
    assert len(set(plain.values())) >= len(plain) - 2  # few are the same for a benchmark
    assert set(VISUALTHINKER) | {"vlaa"} <= set(plain)
    with pytest.raises(UserError, match="the protocol is 'none'; expected one of"):
        it.read(tmp_path, "none")


@pytest.mark.parametrize("name", published.LAYOUTS)
def test_a_folder_without_its_files_is_an_error(name, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    it = benchmark(name)
    with pytest.raises(UserError, match=str(tmp_path)):
        it.read(tmp_path, next(iter(it.protocols)))


DROPPED = {
    ("blink_spatial", "tsv"): [("another subset", True)],
    ("mathverse", "hf"): [("another version", True)],
    ("logicvista", "json"): [("no question", False)],
    ("mmmu", "tsv"): [("another split", True)],
    ("scienceqa", "json"): [("another split", True)],
}


@pytest.mark.parametrize(("name", "layout"), DROPPED, ids=" ".join)
def test_rows_that_are_left_out_are_listed(name, layout, tmp_path):
    _, dropped = read(name, layout, tmp_path)
    assert [(row.reason, row.setting) for row in dropped] == DROPPED[name, layout]


def test_a_bad_row_is_listed_and_the_others_are_used(tmp_path):
    without = published.CV[2] | {"image": None, "filename": None}
    rows = [*published.CV, published.CV[0], published.CV[1] | {"idx": 9, "answer": "(Z)"}]
    published.parquet(tmp_path / "test.parquet", [*rows, without])
    items, dropped = benchmark("cv_bench").read(tmp_path, "vlmevalkit")
    assert len(items) == len(published.CV)
    reasons = ["an id that comes again", "answer is none of the choices", "no image"]
    assert [(row.id, row.reason) for row in dropped] == list(zip("678", reasons, strict=True))
    published.parquet(tmp_path / "test.parquet", [rows[-1]])
    with pytest.raises(UserError, match="no usable row: 1 answer is none of the choices"):
        benchmark("cv_bench").read(tmp_path, "vlmevalkit")


def test_an_incomplete_problem_of_wemath_is_left_out_whole(tmp_path):
    rows = [row for row in published.WE if (row["ID"], row["key"]) != ("2steps_2", "2steps_1")]
    published.parquet(tmp_path / "testmini.parquet", rows)
    items, dropped = benchmark("wemath").read(tmp_path, "vlmevalkit")
    assert {item.cluster for item in items} == {"2steps_1", "3steps_1"}
    assert [row.id for row in dropped] == ["2steps_2/2", "2steps_2/multi"]
    assert dropped[0].found == "the problem 2steps_2 has no 2steps_1"


def test_the_first_layout_is_taken_once(tmp_path):
    """A copy of the hub's repository has a file of everything and one of each part."""
    for layout in ("hf", "hf parts", "jsonl"):
        published.LAYOUTS["cv_bench"][layout](tmp_path)
    items, dropped = benchmark("cv_bench").read(tmp_path, "vlmevalkit")
    assert len(items) == len(published.CV) and dropped == []
    alone, _ = benchmark("cv_bench").read(tmp_path / "test_3d.parquet", "vlmevalkit")
    assert [item.id for item in alone] == ["3D-3", "3D-4"]


def test_own_questions_are_marked_by_their_kind(tmp_path):
    items, dropped = read("own", "jsonl", tmp_path / "own")
    assert {item.id: item.kind for item in items} == dict(a="mcq", b="number", c="text", d="math")
    assert [item.groups["task"] for item in items] == ["own", "count", "own", "own"]
    assert [(row.id, row.reason) for row in dropped] == [("e", "unknown kind")]
    assert "kind is 'age'; expected one of " in dropped[0].found


def test_scenes_of_an_evaluation_are_never_trained_on():
    asked, _ = benchmark("scenes").read(None, "plain")
    assert len({item.id for item in asked}) == 200
    trained = {example.images[0].tobytes() for example in Scenes(200).load()}
    assert not trained & {item.images[0].tobytes() for item in asked}
    assert {item.groups["task"] for item in asked} == set(TASKS)
