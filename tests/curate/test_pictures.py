# SPDX-License-Identifier: Apache-2.0
"""Pictures are what they hold: copies are one, a changed one is another, and each step has those of
its rows."""

import json
import os
import shutil

import pytest

from jaxvl.curate import metadata, pictures, split, stub, work
from jaxvl.curate.metadata import Chosen
from jaxvl.curate.perplexity import PerplexityScorer, select
from jaxvl.curate.rows import read
from jaxvl.curate.split import SplitSizes
from jaxvl.curate.steps import Step, prompt
from jaxvl.curate.teachers import Own, TeacherSettings
from jaxvl.errors import UserError
from tests.curate.sets import jsonl, picture

ROW = {"question": "q", "gt": 1, "verifier_type": "digit"}


def source(folder, *names, **more):
    """A source with a row for each picture, all of them another one."""
    for number, name in enumerate(names):
        if not (folder / name).exists():
            picture(folder / name, number)
    return str(jsonl(folder / "rows.jsonl", [ROW | {"image": name} | more for name in names]))


def captioned(rows, out, calls=None):
    """The step that sees pictures; what it asks is put into `calls`."""
    answers = stub.answers("caption")

    def answer(bodies):
        (calls if calls is not None else []).extend(bodies)
        return answers(bodies)

    step = Step("caption", TeacherSettings("stub"), prompt("caption"), rows.parent / "images")
    return work.run(step, rows, out, lambda: Own("stub", answer, str(out.parent / "a.sqlite")))


def verified(number, image, answer):
    row = {"id": f"s-{number}", "source": "s", "image": image, "verified": "Yes"}
    return row | ROW | {"answer": f"<think>{answer}</think> 1"}


@pytest.mark.parametrize("name", ["t/1.png", "s/copy.png"])
def test_a_copy_of_a_picture_is_that_picture_to_the_two_sets(name, tmp_path):
    picture(tmp_path / "images/s/1.png", 1)
    picture(tmp_path / "images/s/2.png", 2)
    (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "images/s/1.png", tmp_path / "images" / name)
    given = [verified(0, "s/1.png", "wait"), verified(1, name, "so"), verified(2, "s/2.png", "so")]
    done = split.run(jsonl(tmp_path / "rows.jsonl", given), tmp_path / "out", SplitSizes())
    assert done["dropped"] == {"picture is in the RL set": 1}
    (drop,) = map(json.loads, (tmp_path / "out/6-split.dropped.jsonl").read_text().splitlines())
    assert drop["found"] == f"{name} is in the RL set as s/1.png"
    assert [row["id"] for row in read(tmp_path / "out/sft.jsonl")] == ["s-2"]


def test_one_question_of_a_picture_and_its_copies(tmp_path):
    rows = source(tmp_path, "1.png", "2.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "3.png")
    source(tmp_path, "1.png", "2.png", "3.png")
    kept, dropped = metadata.collect({"own": rows}, tmp_path / "images", Chosen())
    assert len(kept) == 2 and len({row["image"] for row in kept} & {"own/1.png", "own/3.png"}) == 1
    assert [row["reason"] for row in dropped] == ["another question of its picture is taken"]
    kept, _ = metadata.collect({"own": rows}, tmp_path / "images", Chosen(all_questions=True))
    assert len(kept) == 3


def test_pictures_that_come_later_reach_the_folders_of_later_steps(tmp_path):
    rows, first, second = tmp_path / "a/1.jsonl", tmp_path / "b/2.jsonl", tmp_path / "c"
    for names in (["1.png"], ["1.png", "2.png", "3.png"]):
        metadata.run({"own": source(tmp_path, *names)}, rows, Chosen())
        captioned(rows, first)
        select(_answered(first), second, [PerplexityScorer("a", _flat)], [1])
        for folder in (rows.parent, first.parent, second):
            there = {path.name for path in (folder / "images/own").iterdir()}
            assert there == set(names), folder


def _answered(path):
    rows = [row | {"answer": "x"} for row in read(path)]
    return jsonl(path.with_name("answered.jsonl"), rows)


def _flat():
    return lambda prompts, images, completions: [[[-1.0]] for _ in prompts]


@pytest.mark.parametrize("how", ["in place", "replaced"])
@pytest.mark.parametrize("linked", [True, False])
def test_a_changed_picture_is_seen_by_every_step_that_sees_it(how, linked, tmp_path, monkeypatch):
    """Hard links change with their file, copies do not."""
    if not linked:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links")))
    rows, out, calls = tmp_path / "a/1.jsonl", tmp_path / "b/2.jsonl", []
    name = "images/1.png"
    paths = {"own": source(tmp_path, name, "2.png")}
    metadata.run(paths, rows, Chosen())
    captioned(rows, out, calls)
    before = [row["caption"] for row in read(out)]
    picture(tmp_path / "new.png", 99)
    if how == "in place":
        (tmp_path / name).write_bytes((tmp_path / "new.png").read_bytes())
    else:
        (tmp_path / "new.png").replace(tmp_path / name)
    metadata.run(paths, rows, Chosen())
    captioned(rows, out, calls)
    after = [row["caption"] for row in read(out)]
    assert after[0] != before[0] and after[1] == before[1] and len(calls) == 3
    for folder in (rows.parent, out.parent):
        new = (folder / "images/own" / name).read_bytes()
        assert new == (tmp_path / name).read_bytes()
    captioned(rows, out, calls)
    assert len(calls) == 3


@pytest.mark.parametrize("before", ["broken", "copied"])
def test_rows_that_were_dropped_for_a_picture_are_taken_once_it_is_another(before, tmp_path):
    """Though the file of rows is as it was."""
    paths = {"own": source(tmp_path, "1.png", "2.png", "3.png")}
    whole = (tmp_path / "3.png").read_bytes()
    old = b"no picture" if before == "broken" else (tmp_path / "1.png").read_bytes()
    (tmp_path / "3.png").write_bytes(old)
    counts = []
    for data in (old, whole, old):
        (tmp_path / "3.png").write_bytes(data)
        done = metadata.run(paths, tmp_path / "out/1.jsonl", Chosen())
        counts.append(done["out"]["rows"]["rows"])
    assert counts == [2, 3, 2]


def test_the_sets_are_parted_again_once_a_picture_is_another(tmp_path):
    for number in (1, 2):
        picture(tmp_path / f"images/s/{number}.png", number)
    given = [verified(0, "s/1.png", "wait"), verified(1, "s/2.png", "so")]
    rows = jsonl(tmp_path / "rows.jsonl", given)
    assert not split.run(rows, tmp_path / "out", SplitSizes())["dropped"]
    shutil.copy(tmp_path / "images/s/1.png", tmp_path / "images/s/2.png")
    assert split.run(rows, tmp_path / "out", SplitSizes())["dropped"]


def test_a_picture_that_changed_is_scored_again(tmp_path):
    calls = []

    def logprobs(prompts, images, completions):
        calls.append(len(prompts))
        return [[[-1.0]] for _ in prompts]

    for number in range(4):
        picture(tmp_path / f"images/s/{number}.png", number)
    given = [verified(n, f"s/{n}.png", "so") for n in range(4)]
    rows = jsonl(tmp_path / "sft.jsonl", given)
    for _ in range(2):
        select(rows, tmp_path / "out", [PerplexityScorer("a", lambda: logprobs)], [1], batch=2)
    picture(tmp_path / "images/s/3.png", 99)
    select(rows, tmp_path / "out", [PerplexityScorer("a", lambda: logprobs)], [1], batch=2)
    assert calls == [2, 2, 2]


def test_somebody_else_s_picture_is_not_written_over(tmp_path):
    picture(tmp_path / "out/images/own/1.png", 50)
    before = (tmp_path / "out/images/own/1.png").read_bytes()
    with pytest.raises(UserError, match=r"own/1.png is there and is not .*another --out"):
        metadata.run({"own": source(tmp_path, "1.png")}, tmp_path / "out/1.jsonl", Chosen())
    assert (tmp_path / "out/images/own/1.png").read_bytes() == before


def test_two_pictures_of_a_source_that_would_have_one_name_are_told(tmp_path):
    for number, name in enumerate("ab"):
        picture(tmp_path / name / "1.png", number)
        jsonl(tmp_path / name / "train.jsonl", [ROW | {"image": "1.png"}])
    with pytest.raises(UserError, match=r"a/1.png and .*b/1.png would both be"):
        metadata.run({"own": str(tmp_path)}, tmp_path / "out/1.jsonl", Chosen())


@pytest.mark.parametrize("more", [{}, {"caption": "c"}, {"ds_answer": "<think>a</think> 1"}])
def test_what_is_no_picture_is_found_at_the_start(more, tmp_path):
    """Whatever the row brings, and though no step would look at it."""
    (tmp_path / "1.png").write_text("I am a text")
    picture(tmp_path / "2.png", 2)
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:50])
    rows = source(tmp_path, "1.png", "2.png", "3.png", **more)
    kept, dropped = metadata.collect({"own": rows}, tmp_path / "images", Chosen())
    assert [row["id"] for row in kept] == ["own-1"]
    assert {row["reason"] for row in dropped} == {"not an image", "broken image"}
    assert {row["found"].partition(":")[0] for row in dropped} == {"own/1.png", "own/3.png"}
    assert str(tmp_path) not in json.dumps(dropped)


def test_a_broken_picture_takes_no_place_of_a_sound_one(tmp_path):
    names = [f"{n}.png" for n in range(9)]
    rows = source(tmp_path, *names)
    whole, _ = metadata.collect({"own": rows}, None, Chosen(first={"own": 3}))
    (tmp_path / whole[0]["image"].removeprefix("own/")).write_text("no picture")
    kept, dropped = metadata.collect({"own": rows}, tmp_path / "images", Chosen(first={"own": 3}))
    assert len(kept) == 3 and whole[0] not in kept and len(dropped) == 6


def test_a_dry_run_puts_no_picture_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_put", lambda *paths: pytest.fail("a picture was put"))
    kept, _ = metadata.collect({"own": source(tmp_path, "1.png")}, None, Chosen())
    assert [row["image"] for row in kept] == ["own/1.png"]


def test_a_link_out_of_the_folder_is_refused_without_a_setting_that_is_not_there(tmp_path):
    picture(tmp_path / "else/1.png", 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/1.png").symlink_to(tmp_path / "else/1.png")
    rows = source(tmp_path / "set", "1.png")
    _, (drop,) = metadata.collect({"own": rows}, tmp_path / "images", Chosen())
    assert drop["reason"] == "image file outside its folder"
    assert "allow_outside" not in drop["found"] and "put the file itself there" in drop["found"]
