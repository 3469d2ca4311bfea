# SPDX-License-Identifier: Apache-2.0
"""The six steps together: stopped anywhere they end in the same bytes, and every row is accounted
for."""

import json
import random
import shutil
from collections import Counter

import pytest

from jaxvl.curate import flow, metadata, split, stub
from jaxvl.curate.rows import read
from jaxvl.curate.teachers import Own, TeacherSettings
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.errors import UserError
from tests.curate.sets import jsonl, write_sets

STUB = TeacherSettings("stub", concurrency=2)
CONFIG = flow.Flow(STUB, STUB, STUB, STUB)
OUTPUTS = [*flow.FILES.values(), "sft.jsonl", "grpo.jsonl", "aha.jsonl"]


class Killed(BaseException):
    pass


def steps_of(out):
    return CONFIG.steps(out / "images", None)


def go(paths, out, calls=None, dies_at=None, **sizes):
    """The manifests of a run; each call is put into `calls`, and number `dies_at` is not made."""
    calls = [] if calls is None else calls
    begun = len(calls)

    def teacher(step, cache):
        answers = stub.answers(step.name)

        def answer(bodies):
            if dies_at is not None and len(calls) - begun >= dies_at:
                raise Killed
            calls.extend(json.dumps([step.name, body]) for body in bodies)
            return answers(bodies)

        return Own(f"stub {step.name}", answer, str(cache), batch=1)

    chosen, wanted = metadata.Chosen(), split.SplitSizes(**sizes)
    return list(flow.run(paths, out, steps_of(out), teacher, chosen, wanted))


def data_of(out):
    """The bytes of all files but the cache's."""
    files = [path for path in out.iterdir() if path.is_file() and path.suffix != ".sqlite"]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"), 30)


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    """A run that nothing stopped: its folder and its manifests."""
    out = tmp_path_factory.mktemp("whole")
    return out, go(sets, out)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_a_run_ends_in_the_same_bytes_and_asks_nothing_twice(
    sets, whole, tmp_path, seed
):
    draw, calls, deaths = random.Random(seed), [], 0
    for _ in range(5):
        try:
            go(sets, tmp_path, calls, dies_at=draw.randrange(40))
        except Killed:
            deaths += 1
            for path in tmp_path.glob("*.journal"):  # and cuts a line in two
                data = path.read_bytes()
                path.write_bytes(data[: len(data) - draw.randrange(30)])
    go(sets, tmp_path, calls)
    assert deaths >= 3
    assert data_of(tmp_path) == data_of(whole[0])
    assert [call for call, count in Counter(calls).items() if count > 1] == []


def test_a_run_that_is_done_asks_and_writes_nothing(sets, whole):
    out, manifests = whole
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert go(sets, out, dies_at=0) == manifests
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_every_row_is_accounted_for(whole):
    out, manifests = whole
    rows_in = None
    for done in manifests:
        kept = sum(found["rows"] for name, found in done["out"].items() if name != "aha")
        assert done["rows_in"] == kept + sum(done["dropped"].values())
        assert done["rows_in"] == (rows_in or 180)
        assert done.get("asked", 0) + done.get("not_asked", 0) in (0, done["rows_in"])
        rows_in = kept
    dropped = [
        json.loads(line)
        for path in out.glob("*dropped*")
        for line in path.read_bytes().splitlines()
    ]
    ends = [
        json.loads(line)["id"]
        for name in ("sft", "grpo")
        for line in (out / f"{name}.jsonl").read_bytes().splitlines()
    ]
    ids = [row["id"] for row in read(out / flow.FILES["metadata"])]
    assert sorted([*ends, *(row["id"] for row in dropped)]) == sorted(ids)
    assert len({row["reason"] for row in dropped}) >= 4


def test_the_two_sets_are_disjoint_and_the_training_side_reads_them(whole):
    out, _ = whole
    sft, rl, aha = (list(read(out / f"{name}.jsonl")) for name in ("sft", "grpo", "aha"))
    for key in ("id", "image"):
        assert not {row[key] for row in sft} & {row[key] for row in rl}
    assert not any(split.reflects(row["answer"]) for row in sft)
    assert all(split.reflects(row["answer"]) for row in aha)
    assert {row["source"] for row in rl} >= {"geoqa170k", "arxivqa", "synthesis"}
    for name, rows, part in (("sft", sft, "sft"), ("grpo", rl, "grpo"), ("aha", aha, "sft")):
        loaded = VLAA(str(out / f"{name}.jsonl"), part).load()
        assert len(loaded) == len(rows) > 0 and not loaded.dropped
        assert all(len(loaded[i].images) == 1 for i in range(len(loaded)))


@pytest.mark.parametrize("step", flow.ASKING)
def test_a_changed_prompt_asks_again_from_its_step_on(sets, whole, tmp_path, step):
    out, _ = whole
    shutil.copytree(out, tmp_path / "run", symlinks=True)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / f"{step}.txt").write_text(flow.prompt(step) + "\nPlease.")
    asked = []

    def teacher(of, cache):
        asked.append(of.name)
        return Own(f"stub {of.name}", stub.answers(of.name), str(cache), batch=1)

    steps = CONFIG.steps(tmp_path / "run" / "images", prompts)
    list(flow.run(sets, tmp_path / "run", steps, teacher, metadata.Chosen(), split.SplitSizes()))
    assert asked[0] == step


def test_sizes_of_a_source_and_what_fills_them(sets, tmp_path):
    sizes = {"sft": {"coco": 7, "clevr_math": 3}, "rl": {"coco": 5, "geoqa170k": 4}}
    done = go(sets, tmp_path, **sizes)[-1]["sources"]
    assert done["coco"] == {"sft": 7, "grpo": 5, "dropped": 18}  # its rows have no reflection
    assert done["geoqa170k"] == {"grpo": 4, "dropped": 26}
    assert done["clevr_math"]["sft"] == 3


def test_two_processes_do_not_work_in_one_folder(sets, tmp_path):
    from jaxvl.curate import manifest

    with manifest.alone(tmp_path), pytest.raises(UserError, match="another"):
        go(sets, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        '{"id": "a"}',
        "[1]",
        '{"id": 3, "source": "s", "question": "q"}',
        "{",
        '{"id": "a", "source": "s", "question": "q", "meta": 3}',
    ],
)
def test_rows_that_are_none_are_named(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "z", "source": "s", "question": "q"}\n' + row + "\n")
    with pytest.raises(UserError, match="row 2"):
        list(read(path))
    with pytest.raises(UserError, match="second row has the id"):
        list(read(jsonl(path, [{"id": "z", "source": "s", "question": "q"}] * 2)))


def test_the_estimate_counts_what_a_run_asks_at_most(sets, whole):
    from jaxvl.curate.estimate import estimate

    out, manifests = whole
    found = estimate(steps_of(out), read(out / flow.FILES["metadata"]))
    assert [one.calls for one in found] == [
        60 + 30,
        120,
        120,
        120,
    ]  # clevr, arxiv, vizwiz; synthesis
    for one, done in zip(found, manifests[1:5], strict=True):
        assert one.calls >= done["asked"] > 0 and one.tokens_in > one.calls
