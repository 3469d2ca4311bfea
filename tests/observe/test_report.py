# SPDX-License-Identifier: Apache-2.0
"""The page of a run is one file: everything is in it, and nothing untrusted is alive in it."""

import base64
import hashlib
import json
import os
import shutil

import pytest

from jaxvl.errors import UserError
from jaxvl.observe import curves, report
from jaxvl.observe.browse import Rollouts
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.observe.report import Report, thinned, write_report
from tests.observe.pages import EVIL, Page, rollout, write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "toy<run>")


def test_one_script_may_run_and_nothing_comes_from_elsewhere(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html" and not list(run_dir.glob(".*"))
    page = Page(path.read_text())
    assert not {tag for tag, _ in page.tags} & {"iframe", "link", "object", "form", "base"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        assert tag != "a" or attributes["href"].startswith("#")
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    digest = hashlib.sha256(page.scripts[""].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert "connect-src" not in policy  # an offline file asks nobody


def test_untrusted_text_is_in_the_page_as_data_alone(run_dir):
    text = write_report(run_dir).read_text()
    page = Page(text)
    assert "alert" not in "".join(page.text) and "<script>alert" not in text
    assert page.step(60)["prompts"][0]["completions"][0]["text"] == EVIL
    run = page.data["runs"][0]
    assert run["model"] == EVIL and run["tables"][1]["rows"] == [[EVIL, "0.75"]]
    assert EVIL in run["metrics"]


def test_files_of_a_step_are_in_the_order_of_its_processes(tmp_path):
    (tmp_path / "rollouts").mkdir()
    for name in ("step_2.jsonl", "step_2.10.jsonl", "step_2.9.jsonl", "step_10.jsonl"):
        (tmp_path / "rollouts" / name).touch()
    (tmp_path / "rollouts/step_3.jsonl").mkdir()
    os.mkfifo(tmp_path / "rollouts/step_4.jsonl")  # reading it would wait for ever
    names = {step: [file.name for file in of] for step, of in Rollouts(tmp_path).files().items()}
    assert names == {
        2: ["step_2.jsonl", "step_2.9.jsonl", "step_2.10.jsonl"],
        10: ["step_10.jsonl"],
    }
    assert list(names) == [2, 10]


def test_every_step_has_its_rollouts_and_small_images_once(run_dir):
    page = Page(write_report(run_dir).read_text())
    assert page.data["runs"][0]["rollouts"] == [1, 5, 10, 60]
    assert page.data["runs"][0]["left_out"] == ""
    images = [text for name, text in page.scripts.items() if name.startswith("image-")]
    assert len(images) == 1 and len(images[0]) < 20_000  # of eight prompts that share it
    for step in (1, 5, 10, 60):
        found = page.step(step)
        assert found["broken"] == 1 and len(found["prompts"]) == 2
        first, *odd = found["prompts"][0]["images"]
        assert f"image-{first['digest']}" in page.scripts
        assert [one["error"] for one in odd] == [
            "cannot be read (FileNotFoundError)",
            "not in the run directory",
            "not in the run directory",
        ]


def test_rollouts_of_several_processes_are_one_step(run_dir):
    (run_dir / "rollouts/step_60.1.jsonl").write_text(json.dumps(rollout(61)))
    page = Page(write_report(run_dir).read_text())
    assert len(page.step(60)["prompts"]) == 3


def test_the_outline_says_what_became_of_each_example(run_dir):
    outline = Page(write_report(run_dir).read_text()).data["runs"][0]["outline"]
    number = outline["ids"].index("ex-1")
    shares = [of for step in ("1", "5", "10", "60") for of in outline["steps"][step]]
    assert [of[1:] for of in shares if of[0] == number] == [[0, 4], [1, 4], [2, 4], [3, 4]]


def test_numbers_of_the_run_are_on_the_page(run_dir):
    data = Page(write_report(run_dir).read_text()).data
    run = data["runs"][0]
    assert (run["last"], run["planned"], run["right"]) == (60, 99, "accuracy")
    assert "NaN or infinity in 1 step, first in step 7." in run["notes"]
    assert run["metrics"]["kl"][6] is None and run["metrics"]["reward"][-1] == 1.0
    tiles = {tile["label"]: (tile["first"], tile["last"]) for tile in run["tiles"]}
    assert tiles["reward"] == ("0.0583", "0.958")  # means over the first and last 6 steps
    charts = {chart["title"]: chart for chart in data["charts"]}
    assert charts["Rewards by part"]["names"] == ["rewards/accuracy/mean"]
    assert len(charts["Completion length (tokens)"]["names"]) == 4
    assert charts[EVIL]["other"] and not charts["KL to the reference"]["other"]


def test_several_runs_are_one_page(run_dir, tmp_path):
    other = write_run(tmp_path / "other", steps=(2,), last=3)
    page = Page(write_report(run_dir, other, out=tmp_path / "both.html").read_text())
    assert [run["name"] for run in page.data["runs"]] == ["toy<run>", "other"]
    assert page.step(2, run=1)["prompts"] and page.data["runs"][1]["rollouts"] == [2]


def test_long_runs_are_thinned_evenly_and_what_is_left_out_stays_out(monkeypatch):
    assert thinned({step: 1 for step in range(10)}, 10) == list(range(10))
    assert thinned({step: 1 for step in range(10)}, 5) == [0, 2, 4, 6, 8, 9]
    before = {step for step in range(40) if step not in thinned({s: 1 for s in range(40)}, 9)}
    after = thinned({step: 1 for step in range(55)}, 9)
    assert not before & set(after) - {39} and thinned({}, 5) == [] and thinned({3: 9}, 5) == [3]
    monkeypatch.setattr(curves, "POINTS", 10)
    steps, columns, size = curves._columns([{"step": n, "a": float(n)} for n in range(1, 26)])
    assert size == 3 and steps[:2] == [3, 6] and columns["a"][:2] == [2.0, 5.0]
    assert steps[-1] == 25 and len(steps) == 9


def test_a_file_that_leaves_something_out_says_so(run_dir, monkeypatch):
    size = (run_dir / "rollouts/step_60.jsonl").stat().st_size
    monkeypatch.setattr(report, "_TEXTS", 3 * size)
    monkeypatch.setattr(report, "_IMAGES", 8)
    run = Page(write_report(run_dir).read_text()).data["runs"][0]
    assert run["rollouts"] == [1, 10, 60] and len(run["outline"]["steps"]) == 4
    assert "rollouts of 3 of 4 steps, and images of 2" in run["left_out"]
    monkeypatch.setattr(report, "_GAPS", 1)
    page = Page(write_report(run_dir).read_text())
    assert "without gaps by token of 1" in page.data["runs"][0]["left_out"]
    having = [s for s in (1, 10, 60) if "gap" in page.step(s)["prompts"][0]["completions"][0]]
    assert having == [1, 60]


def test_gaps_of_elsewhere_are_not_on_the_page(run_dir, tmp_path):
    """A link that leads out of the run's directory is not followed, a file's or the folder's."""
    gaps, elsewhere = run_dir / "rollouts/gaps", tmp_path / "elsewhere"
    gaps.rename(elsewhere)
    gaps.mkdir()
    (gaps / "step_1.jsonl").symlink_to(elsewhere / "step_1.jsonl")
    (gaps / "step_60.jsonl").write_bytes((elsewhere / "step_60.jsonl").read_bytes())
    page = Page(write_report(run_dir).read_text())
    having = [s for s in (1, 10, 60) if "gap" in page.step(s)["prompts"][0]["completions"][0]]
    assert having == [60]
    shutil.rmtree(gaps)
    gaps.symlink_to(elsewhere)
    page = Page(write_report(run_dir).read_text())
    assert not any("gap" in page.step(s)["prompts"][0]["completions"][0] for s in (1, 10, 60))


def test_a_page_written_again_has_what_is_new_and_packs_nothing_twice(run_dir, monkeypatch):
    page = Report(run_dir)
    page.write()
    packed = []
    monkeypatch.setattr(report, "_pack", lambda step: packed.append(step) or ("", {}))
    (run_dir / "rollouts/step_61.jsonl").write_text(json.dumps(rollout(61)))
    assert Page(page.write().read_text()).data["runs"][0]["rollouts"][-1] == 61
    assert [step["prompts"][0]["prompt"][:7] for step in packed] == ["step 61"]


def test_links_out_of_the_run_are_not_followed(run_dir, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/step_70.jsonl").write_text(json.dumps(rollout(70)))
    os.symlink(tmp_path / "outside/step_70.jsonl", run_dir / "rollouts/step_70.jsonl")
    os.remove(run_dir / "eval.json")
    (tmp_path / "eval.json").write_text("{}")
    os.symlink(tmp_path / "eval.json", run_dir / "eval.json")
    run = Page(write_report(run_dir).read_text()).data["runs"][0]
    assert run["rollouts"] == [1, 5, 10, 60] and run["tables"] == []


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    with pytest.raises(UserError, match="expected the directory of a run"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert Page(write_report(tmp_path).read_text()).data["charts"] == []
    MetricsWriter(tmp_path).write(1, {"reward": 0.5})
    assert Page(write_report(tmp_path).read_text()).data["runs"][0]["steps"] == [1]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: broken JSON"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing_behind(run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out cannot be written"):
        write_report(run_dir, out=tmp_path / "out")
    assert not (tmp_path / ".out.part").exists()
