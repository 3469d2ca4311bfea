# SPDX-License-Identifier: Apache-2.0
"""A row names picture files of its own source and no others: by no path that any reader takes."""

import csv
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from jaxvl.curate import metadata, pictures
from jaxvl.curate.metadata import Chosen
from jaxvl.data.example import BadRow
from jaxvl.data.tasks.records import Records, questions_and_images
from jaxvl.data.tasks.sat import SAT
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.errors import UserError
from jaxvl.eval.benchmarks import mossbench
from jaxvl.eval.scoring import formats

OUT = "{out}"  # a folder beside that of the rows
BAD = [
    f"{OUT}/secret.png",
    f"/{OUT}/secret.png",
    f"//{OUT}/./secret.png",
    f"{OUT}/../{{name}}/secret.png",
    f"file://{OUT}/secret.png",
    f"FILE://{OUT}/secret.png",
    f"file://localhost{OUT}/secret.png",
    f"file://{OUT}/%73ecret.png",
    f"file://{OUT}/../{{name}}/secret.png",
    "../{name}/secret.png",
    "./../{name}/secret.png",
    "images/../../{name}/secret.png",
    "images/../../{name}/./secret.png",
    "images/./.././../{name}//secret.png",
    "file://../{name}/secret.png",
    "../rows/../{name}/secret.png",
    "images/link.png",  # to a file outside
    "./images/link.png",
    "images/relative.png",  # the same with a relative target
    "images/chain.png",  # a link to a link
    "images/folder/secret.png",  # through a folder that is a link
    "images/folder/../{name}/secret.png",
    "images/up/{name}/secret.png",  # a link to ..
    "folder/secret.png",
    "images/inside/../folder/secret.png",
    "images/hidden/deep/link.png",
    "images/twice/twice/secret.png",
    "images/loop.png",  # a link to itself
    "images/none.png",
    "images",
    "images/",
    ".",
    "..",
    "/",
    "/dev/null",
    "/dev/zero",
    "/proc/self/environ",
    "images/pipe.png",
    "images/in.png\0.txt",
    "x" * 5000 + ".png",
    "~/secret.png",
    "$HOME/secret.png",
    "\\\\host\\share\\secret.png",
    "http://localhost/secret.png",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("paths"))


def lay_out(top):
    """A folder of rows with pictures and links, and another one beside it."""
    out, own = top / "outside", top / "rows"
    (own / "images/hidden/deep").mkdir(parents=True)
    out.mkdir()
    for file in (out / "secret.png", own / "images/in.png"):
        Image.new("RGB", (28, 28)).save(file)
    links = {"link.png": out / "secret.png", "relative.png": "../../outside/secret.png"}
    links |= {"chain.png": "link.png", "folder": out, "up": "../..", "loop.png": "loop.png"}
    links |= {"hidden/deep/link.png": out / "secret.png", "twice": "..", "inside": "hidden"}
    links |= {"good.png": "in.png"}
    for name, target in links.items():
        (own / "images" / name).symlink_to(target)
    (own / "folder").symlink_to(out)
    (own / "twice").symlink_to(out)
    os.mkfifo(own / "images/pipe.png")
    return own


def found(source):
    """What became of the one row of a source."""
    ((_, row),) = source.rows()
    return row


def readers(own, value):
    """What every reader makes of a row with this picture: an example, or a BadRow."""
    row = {"question": "What?", "answer": "a", "verifier_type": "open", "image": value}
    file = own / "rows.jsonl"
    file.write_text(json.dumps(row))
    yield found(Records(str(file)))
    yield found(Records(str(own), image=("image",)))
    yield next(iter(questions_and_images(Records(str(file)))))[1]
    conversation = [{"role": "user", "content": [{"type": "image", "image": value}]}]
    conversation[0]["content"].append({"type": "text", "text": "What?"})
    file.write_text(json.dumps({"messages": conversation, "answer": "a"}))
    yield found(Records(str(file), conversation="messages"))
    file.write_text(json.dumps(row))
    (item,) = formats.rows([file], own)
    yield caught(item.picture, "image")
    yield caught(mossbench._record, {**row, "pid": "1"}, file, own)
    drawn, _ = caught(metadata.collect, {"own": str(file)}, own.parent / "linked", Chosen())
    yield drawn[0] if drawn else BadRow("dropped", "by the pipeline")
    yield caught(pictures.picture, row, own)
    file.unlink()
    if "\0" not in value:
        with open(own / "rows.csv", "w", newline="") as opened:
            csv.writer(opened).writerows([row.keys(), row.values()])
        yield found(Records(str(own / "rows.csv")))
        (own / "rows.csv").unlink()
    table = pyarrow.Table.from_pylist([{**row, "image": [{"bytes": None, "path": value}]}])
    pyarrow.parquet.write_table(table, own / "rows.parquet")
    yield found(Records(str(own / "rows.parquet")))
    (own / "rows.parquet").unlink()
    asked = {"question": "What?", "answers": ["a", "b"], "correct_answer": "a", "images": [value]}
    (own / "train.json").write_text(json.dumps([asked]))
    yield found(SAT(str(own)))
    (own / "train.json").unlink()
    name = "VLAA-Thinking-GRPO-25K.json"
    gold = {"verifier_type": "mcq", "gt": "A", "question": "What? A. a B. b"}
    (own / name).write_text(json.dumps({**gold, "image": value}))
    yield found(VLAA(str(own)))
    (own / name).unlink()


def caught(call, *arguments):
    try:
        return call(*arguments)
    except BadRow as why:
        return why
    except UserError:  # of the pipeline, where no row is left
        return [], ()


@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_no_reader_takes_a_file_that_is_not_its_own(place, value):
    value = value.format(out=place.parent / "outside", name="outside")
    for row in readers(place, value):
        assert isinstance(row, BadRow), row


@pytest.mark.parametrize("value", ["images/in.png", "images/good.png", "./images/../images/in.png"])
def test_every_reader_takes_its_own(place, value):
    strict = 0
    for row in readers(place, value):
        strict += isinstance(row, BadRow)  # the pipeline's two refuse any `..`
    assert strict == (2 if ".." in value else 0)


@pytest.mark.parametrize("value", [f"{OUT}/secret.png", "../outside/secret.png", "images/link.png"])
def test_a_source_that_allows_it_takes_files_from_anywhere(place, value):
    value = value.format(out=place.parent / "outside")
    file = place / "allowed.jsonl"
    file.write_text(json.dumps({"question": "What?", "answer": "a", "image": value}))
    assert found(Records(str(file), allow_outside=True)).images
    why = found(Records(str(file)))
    assert why.reason == "image file outside its folder" and "allow_outside=true" in str(why)
    file.unlink()


def test_the_folder_that_a_config_names_is_the_root(place):
    file = place / "named.jsonl"
    file.write_text(json.dumps({"question": "What?", "answer": "a", "image": "secret.png"}))
    assert found(Records(str(file), images=str(place.parent / "outside"))).images
    file.write_text(json.dumps({"question": "What?", "answer": "a", "image": "in.png"}))
    assert found(Records(str(file), images=str(place / "images"))).images
    file.unlink()


def test_a_snapshot_of_the_hub_has_its_files_in_the_cache(place):
    copy = place.parent / "datasets--me--rooms"
    (copy / "blobs").mkdir(parents=True)
    snapshot = copy / "snapshots/0123"
    snapshot.mkdir(parents=True)
    (place / "images/in.png").rename(copy / "blobs/abc")
    (snapshot / "a.png").symlink_to("../../blobs/abc")
    (snapshot / "b.png").symlink_to(place.parent / "outside/secret.png")
    for name, right in (("a.png", True), ("b.png", False)):
        file = snapshot / "train.jsonl"
        file.write_text(json.dumps({"question": "What?", "answer": "a", "image": name}))
        assert isinstance(found(Records(str(snapshot))), BadRow) != right
