# SPDX-License-Identifier: Apache-2.0
"""Replies written down: nothing twice, nothing lost, nothing mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.errors import UserError
from jaxvl.eval import tasks
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines import predictions
from jaxvl.eval.engines.recorded import Recorded
from jaxvl.eval.engines.replies import Reply, ReplySampling, fingerprint, pairs
from jaxvl.eval.engines.run import parse_part, parse_sources, run

ROOT = Path(__file__).parents[2]


class Parrot:
    """Says the same to everything, `batch` replies at a time; dies after `lives` of them."""

    def __init__(self, text="<answer>left</answer>", batch=3, lives=10**6):
        self.text, self.batch, self.lives, self.dropped, self.asked = text, batch, lives, [], 0

    def replies(self, items, missing):
        wanted = pairs(items, missing)
        for start in range(0, len(wanted), self.batch):
            if self.asked >= self.lives:
                raise KeyboardInterrupt
            part = wanted[start : start + self.batch]
            self.asked += len(part)
            yield [
                Reply(item, sample, self.text, self.text, "stop", 5, 0, "asked")
                for item, sample in part
            ]


def answer(out, model=None, how=None, decides=None, **more):
    """`model`'s replies to the smoke benchmark in the folder `out`."""
    how, decides = how or ReplySampling(max_new_tokens=8), decides or {"model": "parrot"}
    task = tasks.open_task("smoke", system_prompt=more.pop("system_prompt", ""))
    return run(task, model or Parrot(), how, out, decides=decides, about={}, **more)


def keys(out):
    return sorted(predictions.read(out / "smoke")[0])


def everything(n=1):
    ids = [item.id for item in tasks.open_task("smoke").items]
    return sorted((id, sample) for id in ids for sample in range(n))


def test_a_run_that_was_stopped_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path, Parrot(lives=3))
    file = tmp_path / "smoke/predictions.jsonl"
    assert len(keys(tmp_path)) == 3
    with open(file, "ab") as torn:  # what a kill in the middle of a write leaves
        torn.write(file.read_bytes()[:100])
    second = Parrot()
    assert answer(tmp_path, second) == 0
    assert second.asked == 5 and keys(tmp_path) == everything()
    assert len(file.read_bytes().splitlines()) == 8
    assert answer(tmp_path, third := Parrot()) == 0 and third.asked == 0


def test_a_killed_process_leaves_no_gap_and_nothing_twice(tmp_path):
    code = (
        "import time; from pathlib import Path; from tests.eval.test_run import Parrot, answer\n"
        "class Slow(Parrot):\n"
        "    def replies(self, items, missing):\n"
        "        for batch in super().replies(items, missing):\n"
        "            yield batch; time.sleep(0.5)\n"
        f"answer(Path({str(tmp_path)!r}), Slow(batch=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    file = tmp_path / "smoke/predictions.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(keys(tmp_path))
    assert 2 <= before < 8
    assert answer(tmp_path) == 0 and keys(tmp_path) == everything()
    assert len(file.read_bytes().splitlines()) == 8


def test_other_settings_are_refused_unless_forced(tmp_path):
    answer(tmp_path)
    with pytest.raises(UserError, match="'parrot' there and 'parrot 2' here.*--force"):
        answer(tmp_path, decides={"model": "parrot 2"})
    with pytest.raises(UserError, match="temperature is 0.0 there and 1.0 here"):
        answer(tmp_path, how=ReplySampling(temperature=1.0, max_new_tokens=8))
    with pytest.raises(UserError, match="system_prompt"):
        answer(tmp_path, system_prompt="vlaa")
    assert answer(tmp_path, decides={"model": "parrot 2"}, force=True) == 0
    found, notes = predictions.read(tmp_path / "smoke")
    assert sorted(found) == everything() and "8 replies were made with other settings" in notes[0]


def test_settings_of_a_run_that_wrote_nothing_bind_nobody(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path, Parrot(lives=0), decides={"model": "mistyped"})
    assert answer(tmp_path) == 0 and keys(tmp_path) == everything()


def test_more_samples_and_more_items_may_follow(tmp_path):
    how = ReplySampling(n=2, temperature=1.0, max_new_tokens=8)
    answer(tmp_path, how=how, limit=4)
    assert len(keys(tmp_path)) == 8
    more = Parrot()
    answer(tmp_path, more, how=ReplySampling(n=3, temperature=1.0, max_new_tokens=8))
    assert keys(tmp_path) == everything(3) and more.asked == 24 - 8


def test_shares_have_files_of_their_own_and_make_the_whole(tmp_path):
    for index in (1, 2, 3):
        answer(tmp_path, part=(index, 3))
    assert len(list((tmp_path / "smoke").glob("predictions-*-of-3.jsonl"))) == 3
    assert keys(tmp_path) == everything()
    assert parse_part("2/4") == (2, 4)
    for wrong in ("0/4", "5/4", "1", "a/b"):
        with pytest.raises(UserError, match="expected I/N"):
            parse_part(wrong)


def test_a_file_has_one_writer(tmp_path):
    answer(tmp_path)
    writer = predictions.Writer(tmp_path / "smoke")
    with writer, pytest.raises(UserError, match="being written by another process"):
        answer(tmp_path)
    assert answer(tmp_path) == 0


def test_of_two_replies_the_last_counts(tmp_path):
    answer(tmp_path)
    file = tmp_path / "smoke/predictions.jsonl"
    line = json.loads(file.read_bytes().splitlines()[0]) | {"text": "later"}
    with open(file, "a") as more:
        more.write(json.dumps(line) + "\n")
    found, notes = predictions.read(tmp_path / "smoke")
    assert found[line["id"], 0]["text"] == "later" and notes == [
        "1 replies were there twice; the last of each counts"
    ]


def test_any_text_survives(tmp_path):
    text = "a\u2028b\x85\r\n\x00 \ud800 \U0001f914"
    answer(tmp_path, Parrot(text))
    assert {line["text"] for line in predictions.read(tmp_path / "smoke")[0].values()} == {text}


def items(clusters):
    return [Item(str(i), "?", (), "A", cluster=name) for i, name in enumerate(clusters)]


def test_a_subset_is_drawn_and_cuts_no_cluster():
    alone = items([""] * 100)
    four, forty = tasks.subset(alone, 4), tasks.subset(alone, 40)
    assert len(four) == 4 and len(forty) == 40
    assert set(item.id for item in four) < set(item.id for item in forty)
    # No stride: of items that take turns in four groups all are there.
    assert {int(item.id) % 4 for item in forty} == {0, 1, 2, 3}
    assert [int(item.id) for item in forty] == sorted(int(item.id) for item in forty)
    assert tasks.subset(alone, 0) == tasks.subset(alone, 100) == alone
    clustered = tasks.subset(items([str(i % 10) for i in range(100)]), 21)
    assert len(clustered) == 20 and len({item.cluster for item in clustered}) == 2


def test_what_is_asked_has_a_digest():
    one = tasks.open_task("smoke")
    assert one.dataset_digest == tasks.open_task("smoke", protocol="vlaa").dataset_digest
    other = items(["", ""])
    assert tasks.prompt_digest(one.items[0]) != tasks.prompt_digest(
        tasks.open_task("smoke", system_prompt="Be brief.").items[0]
    )
    task = tasks.Task(one.benchmark, "", "plain", "", other, [])
    assert len(set(task.row_digests.values())) == 2  # the id is part of a row


def test_checkpoints_of_one_path_are_told_apart(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(bytes(10**6))
    first = fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(bytes(10**6 - 5) + b"12345")
    assert fingerprint(tmp_path) != first


def test_names_are_checked():
    assert parse_sources(["smoke=here"], ["smoke", "b"]) == {"smoke": "here"}
    assert parse_sources(["here"], ["smoke"]) == {"smoke": "here"}
    with pytest.raises(UserError, match="expected NAME=PATH"):
        parse_sources(["here"], ["smoke", "b"])
    with pytest.raises(UserError, match="did you mean `smoke`"):
        tasks.open_task("smok")
    with pytest.raises(UserError, match="no protocol `x`; expected one of plain, vlaa"):
        tasks.open_task("smoke", protocol="x")


def test_every_module_of_a_benchmark_has_its_name():
    folder = ROOT / "jaxvl/eval/benchmarks"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(tasks.known()) == modules
    for benchmark in tasks.known().values():
        assert benchmark.protocols and benchmark.metrics
        assert benchmark.modes[:2] == ("strict", "lenient")


def test_replies_that_are_made_already_are_taken_over(tmp_path):
    ids = [item.id for item in tasks.open_task("smoke").items]
    file = tmp_path / "made.jsonl"
    rows = [{"id": id, "response": f"reply {i}"} for i, id in enumerate(ids[:7])]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "x"}]))
    made = Recorded(file)
    assert [row.reason for row in made.dropped] == ["no id or no reply"]
    assert answer(tmp_path / "out", made) == 1  # an item has none
    found, _ = predictions.read(tmp_path / "out/smoke")
    assert {key: line["text"] for key, line in found.items()} == {
        (id, 0): f"reply {i}" for i, id in enumerate(ids[:7])
    }


def replies_of(tmp_path, ids, out="out", *more):
    """`eval run --replies` with a reply to each id, through the command line."""
    file = tmp_path / "made.jsonl"
    file.write_text("".join(json.dumps({"id": id, "response": "left"}) + "\n" for id in ids))
    words = ["--model", "m", "--tasks", "smoke", "--replies", file, "--out", tmp_path / out, *more]
    return CliRunner().invoke(app, ["eval", "run", *map(str, words)]).exception


def test_ids_that_match_nothing_are_named(tmp_path):
    ids = [item.id for item in tasks.open_task("smoke").items]
    error = replies_of(tmp_path, [*ids[:-2], "a", "b"])
    assert isinstance(error, UserError)
    said = str(error)
    assert f"no reply to 2 of the items, first {ids[-2]}, {ids[-1]}; 2 of its ids" in said
    assert "are of no item, first a, b" in said and "asks for them again" not in said
    # The mended file is another one, which is said in words.
    said = str(replies_of(tmp_path, ids))
    assert "the file of replies is another one, or was changed since. Choose another" in said
    assert replies_of(tmp_path, ids, "out", "--force") is None
    assert "no such file" in str(
        CliRunner()
        .invoke(
            app,
            ["eval", "run", "--model=m", "--tasks=smoke", "--replies=none", f"--out={tmp_path}"],
        )
        .exception
    )


def test_a_wrong_name_of_a_task_is_not_said_of_the_source():
    words = ["--model=m", "--tasks=mosbench", "--source", "mossbench=data", "--out=none"]
    error = CliRunner().invoke(app, ["eval", "run", *words]).exception
    assert str(error) == "no benchmark `mosbench`; did you mean `mossbench`?"


def test_what_several_replies_are_worth_is_on_the_console(tmp_path):
    answer(tmp_path, how=ReplySampling(n=4, temperature=1.0, max_new_tokens=8))
    said = CliRunner().invoke(app, ["eval", "score", str(tmp_path)]).output
    assert "Several replies to an item" in said and "pass@4" in said
    of = json.loads((tmp_path / "smoke/results.json").read_text())["modes"]["lenient"]["sampled"]
    estimates = [of["avg"], *of["pass"].values(), *of["majority"].values()]
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in estimates)
    answer(tmp_path / "one")
    assert "pass@" not in CliRunner().invoke(app, ["eval", "score", str(tmp_path / "one")]).output
