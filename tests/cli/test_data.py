# SPDX-License-Identifier: Apache-2.0
"""`jaxvl data`: the commands, as a user types them."""

import json
import re

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.data.prepared import Prepared
from jaxvl.data.tasks.records import Records
from jaxvl.data.test_sets import Digests
from jaxvl.errors import UserError
from tests.data.published import GRPO_ROWS, picture, write_sat, write_vlaa
from tests.train.test_grpo import ROOT

BASE = str(ROOT / "configs/quickstart_base")


def run(*args):
    result = CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_what_can_be_prepared():
    listed = run("list")
    names = ["sat", "sat-static", "vlaa-grpo", "vlaa-sft", "records"]
    assert re.findall(r"^(\S+)", listed, re.MULTILINE) == names
    assert "settings: split, subset, images, question" in listed


@pytest.fixture
def prepared(tmp_path):
    write_sat(tmp_path, copies=2)
    out = tmp_path / "out"
    printed = run("prepare", "sat", "--source", tmp_path, "--out", out, "seed=3", "within=5")
    assert "3 of 5 rows are in" in printed and "left out: 2 several images, by setting" in printed
    return out


def test_prepare_takes_settings_and_show_shows(prepared, tmp_path):
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert (manifest["source"]["seed"], manifest["source"]["within"]) == (3, 5)
    assert [example.id for example in Prepared(str(prepared)).load()] == [
        "train-0",
        "train-2",
        "train-3",
    ]
    printed = run("show", prepared, "--template", "visualthinker-base", "--samples", 2)
    assert "rows in" in printed and "several images" in printed
    page = (prepared / "samples.html").read_text()
    assert page.count("A conversation between User and Assistant.") == 2
    run("show", prepared, "--model", BASE, "--out", tmp_path / "page.html")
    assert "&lt;|im_start|&gt;user" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["prepare", "sat2"], "no dataset `sat2`; did you mean `sat`"),
        (["prepare", "zzz"], "expected one of sat, sat-static, vlaa-grpo"),
        (["prepare", "sat", "sed=3"], "no field `sed` in SAT; did you mean `seed`"),
        (["prepare", "sat", "seed=x"], "seed: expected int, found `x`"),
        (["show", "nowhere"], "nowhere is no prepared set"),
        (["show", "nowhere", "--template", "x"], "no template `x`; expected one of chat,"),
    ],
)
def test_a_mistake_is_explained(args, message, tmp_path):
    more = ["--source", str(tmp_path), "--out", str(tmp_path / "out")] * (args[0] == "prepare")
    with pytest.raises(UserError, match=re.escape(message)):
        CliRunner().invoke(app, ["data", *args, *more], catch_exceptions=False)


def test_digest_keeps_a_test_set_out(tmp_path):
    question = "How many of the red chairs stand near the window?"
    rows = [{"query": question, "pic": "a.png"}, {"query": "Short?", "pic": "b.png"}]
    (tmp_path / "a.png").write_bytes(picture(1, form="PNG"))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "mine.txt"
    args = ["--source", tmp_path / "b.jsonl", "--out", out, "question=query", "image=pic"]
    printed = run("digest", "My benchmark", *args)
    assert "2 digests of 2 rows" in printed and "the images of 1 rows could not be read" in printed
    assert Digests([out]).find(question, []).name == "My benchmark"
    own = tmp_path / "own.jsonl"
    lines = [{"question": q, "answer": "a"} for q in (question, "Mine?")]
    own.write_text("\n".join(json.dumps(line) for line in lines))
    run("prepare", "records", "--source", own, "--out", tmp_path / "set", "--digests", out)
    assert [e.question for e in Prepared(str(tmp_path / "set")).load()] == ["Mine?"]
    assert len(Records(str(own)).load()) == 2


def test_a_gold_that_does_not_verify_against_itself_is_left_out(tmp_path):
    rows = [{**GRPO_ROWS[2], "gt": "See the figure. " * 200}, {**GRPO_ROWS[0], "gt": 12}]
    write_vlaa(tmp_path, more=rows)
    printed = run("prepare", "vlaa-grpo", "--source", tmp_path, "--out", tmp_path / "out")
    assert "10 of 11 rows are in" in printed and "left out: 1 fails the check" in printed
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (row,) = manifest["dropped"]["fails the check"]["rows"]
    assert row["id"] == "grpo-9" and "does not verify against itself" in row["found"]
