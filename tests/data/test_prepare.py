# SPDX-License-Identifier: Apache-2.0
"""Preparation: what goes in is accounted for, goes on where it was killed, gives the same bytes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvl.data import test_sets
from jaxvl.data.files import sha256
from jaxvl.data.image import load_image
from jaxvl.data.prepare import prepare
from jaxvl.data.prepared import Prepared
from jaxvl.data.tasks import sat, vlaa
from jaxvl.data.tasks.records import Records
from jaxvl.errors import UserError
from tests.data.published import GRPO_ROWS, picture, write_sat, write_tsv, write_vlaa
from tests.data.test_intake import BAD_IMAGES

ROOT = Path(__file__).parents[2]


def contents(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """SAT with 12 rows of which 4 have two pictures."""
    return write_sat(tmp_path_factory.mktemp("sat"), copies=4)


@pytest.fixture(scope="module")
def whole(published, tmp_path_factory):
    """It, prepared without a break in shards of five rows."""
    out = tmp_path_factory.mktemp("out") / "sat"
    return out, prepare("sat", sat.paper(str(published)), out, shard=5)


def test_the_manifest_accounts_for_every_row(whole, published):
    out, manifest = whole
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["tasks"]) == (12, 8, {"sat": 8})
    left = manifest["dropped"]["several images"]
    assert (left["count"], left["setting"]) == (4, True)
    assert [row["id"] for row in left["rows"]] == [f"train-{n}" for n in (1, 4, 7, 10)]
    assert left["rows"][0]["found"] == "the question is about 2 images"
    (file,) = manifest["files"]
    assert file["sha256"] == sha256(published / "SAT_train.parquet")
    assert manifest["source"]["type"] == "jaxvl.data.tasks.sat:SAT"
    assert manifest["source"]["within"] == 15_000
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 4, 1]
    for shard in manifest["shards"]:
        path = out / shard["file"]
        assert (path.stat().st_size, sha256(path)) == (shard["bytes"], shard["sha256"])
    assert {p.name for p in out.iterdir()} == {s["file"] for s in manifest["shards"]} | {
        "manifest.json", "keys.json", "dataset_info.json", "features.json",
    }  # fmt: skip


def test_what_was_prepared_is_what_the_source_gives(whole, published):
    prepared, direct = Prepared(str(whole[0])).load(), sat.paper(str(published)).load()
    assert list(prepared) == list(direct)
    assert prepared[0].images == (picture(0),)  # the file as it was
    assert prepared.keys() == [(e.task, e.id) for e in direct]
    assert prepared.dropped == direct.dropped
    with pytest.raises(IndexError):
        prepared.base[8]


def test_tensorflow_datasets_reads_it_without_tensorflow(whole):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"rows = tfds.builder_from_directory({str(whole[0])!r}).as_data_source('train')\n"
        "print(len(rows), rows[7]['id'].decode(), rows[7]['images'][0].shape)\n"
        "print([m for m in ('tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["8 train-11 (56, 56, 3)", "[]"], done.stderr


def test_every_dataset_is_prepared(tmp_path):
    (tmp_path / "vlaa").mkdir()
    write_vlaa(tmp_path / "vlaa")
    write_vlaa(tmp_path / "vlaa", "sft")
    table = write_tsv(tmp_path / "toy.tsv")
    sources = {
        "vlaa-grpo": vlaa.VLAA(str(tmp_path / "vlaa")),
        "vlaa-sft": vlaa.VLAA(str(tmp_path / "vlaa"), "sft"),
        "records": Records(str(table), id="index", choices=("A", "B", "C")),
    }
    for name, source in sources.items():
        manifest = prepare(name, source, tmp_path / name, shard=4)
        direct, prepared = source.load(), Prepared(str(tmp_path / name)).load()
        assert manifest["rows_out"] == len(direct) == len(prepared)
        for one, other in zip(direct, prepared, strict=True):
            assert dataclasses.replace(one, images=()) == dataclasses.replace(other, images=())
            for a, b in zip(one.images, other.images, strict=True):
                assert load_image(a).tobytes() == load_image(b).tobytes()


def test_every_kind_of_bad_row_is_in_the_manifest_and_none_ends_it(tmp_path):
    (tmp_path / "images").mkdir()
    rows, expected = [], {}
    for number, (reason, data) in enumerate(BAD_IMAGES.items()):
        image = f"images/{number}.png"
        if isinstance(data, bytes):
            (tmp_path / image).write_bytes(data)
        rows.append({"id": f"image{number}", "question": "q", "answer": "a", "image": image})
        if data == 3:
            rows[-1]["image"] = 3
        expected[reason] = [f"image{number}"]
    (tmp_path / "images/good.png").write_bytes(picture(5, form="PNG"))
    (tmp_path / "images/test.png").write_bytes(picture(6, form="PNG"))
    good = {"question": "q", "answer": "a", "image": "images/good.png"}
    rows += [{**good, "id": "good"}, {**good, "id": "mean", "answer": "unverifiable"}]
    rows += [{**good, "id": "test", "image": "images/test.png"}]
    rows += [{**good, "id": "number", "question": 7}, {**good, "id": "none", "answer": None}]
    rows += [
        {**good, "id": "list", "choices": "ab"},
        {**good, "id": "x", "answer": "z", "choices": ["x", "y"]},
    ]
    rows += [{**good, "id": "special", "question": "<|im_start|>system"}]
    rows += [{**good, "id": "half", "question": "what is \ud800?"}]
    lines = [json.dumps(row) for row in rows] + ["{ not json", "[]"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    expected |= {
        "fails the check": ["mean"],
        "of the test set CV-Bench": ["test"],
        "no question": ["number"],
        "no answer": ["none"],
        "choices of a wrong type": ["list"],
        "answer is none of the choices": ["x"],
        "special token in the text": ["special"],
        "broken text": [str(len(rows))],
        "broken JSON": [str(len(rows) + 1), str(len(rows) + 2)],
    }
    digest = test_sets.image_digest(load_image(picture(6, form="PNG")))
    test_sets.write(tmp_path / "digests.txt", "CV-Bench", [], [digest])
    manifest = prepare(
        "records",
        Records(str(tmp_path / "rows.jsonl")),
        tmp_path / "out",
        check=lambda e: "the gold does not verify" if e.answer == "unverifiable" else "",
        digests=[str(tmp_path / "digests.txt")],
        shard=3,
    )
    found = {r: [row["id"] for row in kind["rows"]] for r, kind in manifest["dropped"].items()}
    assert found == expected
    assert not any(kind["setting"] for kind in manifest["dropped"].values())
    assert all(row["found"] for kind in manifest["dropped"].values() for row in kind["rows"])
    assert (manifest["rows_in"], manifest["rows_out"]) == (len(lines), 1)


class Stop(Exception):
    pass


def stop_after(rows):
    def on_rows(done):
        if done >= rows:
            raise Stop

    return on_rows


@pytest.mark.parametrize("rows", [5, 10, 12])
def test_it_goes_on_where_it_was_stopped(whole, published, tmp_path, rows):
    source, out = sat.paper(str(published)), tmp_path / "sat"
    with pytest.raises(Stop):
        prepare("sat", source, out, shard=5, on_rows=stop_after(rows))
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="its preparation was not finished"):
        Prepared(str(out)).load()
    seen = []
    assert prepare("sat", source, out, shard=5, on_rows=seen.append) == whole[1]
    assert seen == [done for done in (5, 10, 12) if done > rows]
    assert contents(out) == contents(whole[0])
    assert prepare("sat", source, out, shard=5, on_rows=seen.append) == whole[1]  # nothing to do
    assert len(seen) == len([done for done in (5, 10, 12) if done > rows])


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_it_goes_on_from_the_middle_of_the_last_step(
    whole, published, tmp_path, moved, monkeypatch
):
    """Killed between two of the renames that put the shards in their places."""
    source, out = sat.paper(str(published)), tmp_path / "sat"
    left = [moved]

    def replace(old, new, true=os.replace):
        if ".array_record-" in str(new):
            if not left[0]:
                raise Stop
            left[0] -= 1
        true(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        if moved < 3:
            with pytest.raises(Stop):
                prepare("sat", source, out, shard=5)
        else:
            prepare("sat", source, out, shard=5)
    assert prepare("sat", source, out, shard=5) == whole[1]
    assert contents(out) == contents(whole[0])


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(published, tmp_path):
    """SIGKILL while shards are written; the next process ends with the same bytes."""
    many = write_sat(tmp_path, copies=14)
    source = "from jaxvl.data.prepare import prepare; from jaxvl.data.tasks import sat\n"
    source += f"prepare('sat', sat.paper({str(many)!r}), {{out!r}}, shard=2)"
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", source.format(out=str(out))], cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(list((out / "parts").glob("0*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((out / "parts").glob("0*.json")))
    assert done >= 3 and not (out / "manifest.json").exists()
    prepare("sat", sat.paper(str(many)), out, shard=2)
    prepare("sat", sat.paper(str(many)), tmp_path / "whole", shard=2)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_folder_of_something_else_is_not_touched(whole, published, tmp_path):
    with pytest.raises(UserError, match="was prepared from something else: name was sat"):
        prepare("other", sat.paper(str(published)), whole[0], shard=5)
    with pytest.raises(UserError, match="source was .*'seed': 0.* is .*'seed': 1"):
        prepare("sat", sat.paper(str(published), seed=1), whole[0], shard=5)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no prepared set"):
        prepare("sat", sat.paper(str(published)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_source_that_changes_under_a_preparation_is_seen(tmp_path):
    folder = write_sat(tmp_path / "sat") if (tmp_path / "sat").mkdir() is None else None
    with pytest.raises(Stop):
        prepare("sat", sat.paper(str(folder)), tmp_path / "out", shard=1, on_rows=stop_after(1))
    write_sat(folder, copies=2)
    with pytest.raises(UserError, match="files was"):
        prepare("sat", sat.paper(str(folder)), tmp_path / "out", shard=1)


def test_no_usable_row_is_an_error(tmp_path):
    write_vlaa(tmp_path, rows=[], more=[{**GRPO_ROWS[0], "gt": None}])
    with pytest.raises(
        UserError, match="vlaa-grpo has no usable row: 1 missing image file|1 no answer"
    ):
        prepare("vlaa-grpo", vlaa.VLAA(str(tmp_path)), tmp_path / "out")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="it is empty"):
        prepare("records", Records(str(tmp_path / "empty.jsonl")), tmp_path / "out2")


def test_a_damaged_set_is_seen_when_it_is_loaded(whole, published, tmp_path):
    prepare("sat", sat.paper(str(published)), tmp_path / "sat", shard=5)
    shard = tmp_path / "sat" / whole[1]["shards"][1]["file"]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shard.name} has .* bytes, expected"):
        Prepared(str(tmp_path / "sat")).load()
    shard.unlink()
    with pytest.raises(UserError, match="has 0 bytes"):
        Prepared(str(tmp_path / "sat")).load()
    with pytest.raises(UserError, match="is no prepared set"):
        Prepared(str(tmp_path)).load()


def test_test_sets_are_not_prepared_but_for_trials(tmp_path):
    (tmp_path / "MathVista").mkdir()
    row = {"question": "q", "answer": "a"}
    (tmp_path / "MathVista" / "a.jsonl").write_text(json.dumps(row))
    source = Records(str(tmp_path / "MathVista" / "a.jsonl"))
    with pytest.raises(UserError, match="names the benchmark MathVista"):
        prepare("records", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    manifest = prepare("records", source, tmp_path / "out", trial=True)
    assert manifest["test_data"] == ["MathVista"]
    assert [b.name for b in test_sets.named(Prepared(str(tmp_path / "out")))] == ["MathVista"]
