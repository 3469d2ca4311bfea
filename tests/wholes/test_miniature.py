# SPDX-License-Identifier: Apache-2.0
"""scripts/miniature.py: its tables follow from what was measured; at its smallest size it runs,
and does nothing twice."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import score
from jaxvl.rewards.columns import AskedColumns, inputs
from tests.wholes.launch import ROOT


@pytest.fixture
def parts(monkeypatch):
    """The modules of the experiment, as its script imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    names = ("arms", "runs", "report")
    return [importlib.import_module(f"miniature_parts.{name}") for name in names]


# Programs that were compiled once are kept, as the other tests keep theirs.
KEPT = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
MODELS = ("able", "instruct", "kinds-right", "kinds", "refuser")


def measured(right, entropy=0.1):
    at = {"1": right, "2": 1.0, "4": 1.0 - entropy}
    rest = {"greedy": right, "format": 1.0, "length": 20.0, "hesitation": 0.0}
    return {"pass_at": at, "entropy": entropy, **rest}


def write(place, arm, found):
    file = place.results(arm)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found | {"sizes": dataclasses.asdict(place.sizes)}))


def lines(report, part, places, found):
    return "\n".join(report.tables(part, places, found)).split("\n")


def test_tables_pair_seeds_and_leave_out_those_that_are_not_finished(tmp_path, parts):
    arms, runs, report = parts
    chosen = arms.PARTS["b"](arms.TINY)
    places = [runs.Place(tmp_path, seed, arms.TINY) for seed in range(4)]
    # Seeds differ by far more than arms; one arm is better by 0.1 in each, the other by chance.
    for seed, place in enumerate(places[:3]):
        for arm, more in zip(chosen, (0.0, 0.1, (-0.1, 0.1, 0.0)[seed]), strict=True):
            write(place, arm, measured(0.2 * (seed + 1) + more))
    got = lines(report, "b", places, chosen)
    plain = next(line for line in got if line.startswith("| RL |"))
    half = 4.303 * 0.2 / 3**0.5  # Student's quantile of two degrees of freedom
    assert f"0.400 [{0.4 - half:.3f}, {0.4 + half:.3f}]" in plain
    better, chance = (line for line in got[8:] if line.startswith("| 0.0"))
    assert better == "| 0.001 a token | 0.100 [0.100, 0.100] | 0.100 [0.100, 0.100] | higher |"
    assert "no difference seen" in chance
    assert got == lines(report, "b", places, chosen)
    few = lines(report, "b", places[1:], chosen)
    assert few[2] == "Not run: fewer than 3 seeds are finished."


def test_an_arm_that_is_not_finished_is_named_and_has_no_figure(tmp_path, parts):
    arms, runs, report = parts
    chosen = arms.PARTS["b"](arms.TINY)
    places = [runs.Place(tmp_path, seed, arms.TINY) for seed in range(4)]
    for place in places[:3]:
        for arm in chosen[:2]:
            write(place, arm, measured(0.5))
    write(places[0], chosen[2], measured(0.5))
    got = lines(report, "b", places, chosen)
    assert f"Not run, or with fewer than 3 seeds: {chosen[2].name}." in got
    assert not any(line.startswith(f"| {chosen[2].name}") for line in got)


def test_what_the_gain_goes_with(tmp_path, parts):
    arms, runs, report = parts
    chosen = arms.PARTS["a"](arms.TINY)
    places = [runs.Place(tmp_path, seed, arms.TINY) for seed in range(3)]
    for seed, place in enumerate(places):
        for number, arm in enumerate(chosen):
            # What fine-tuning leaves of entropy is what RL gains, from the same accuracy.
            entropy = 0.01 * (number + 1)
            gain = entropy + 0.002 if arm.name.endswith(", RL") else 0.0
            write(place, arm, measured(0.5 + 0.001 * seed + gain, entropy))
    got = lines(report, "a", places, chosen)
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in got[-8:]}
    assert rows["| entropy"][:2] == ["1.00", "1.00"]
    assert rows["| pass@64"][:2] == ["-1.00", "-1.00"]  # it is 1 - entropy here
    assert "Over 15 runs and 5 arms." in got


def test_a_run_of_several_doses_is_one(parts):
    arms, runs, _ = parts
    for sizes in (arms.Sizes(), arms.TINY):
        for part in arms.PARTS.values():
            for stages in arms.stages_of(part(sizes)):
                for stage in stages:
                    assert 0 < stage.steps <= stage.of
                    known = runs.VARIANTS if stage.kind == "rl" else (*arms.TRACES, *MODELS)
                    assert stage.how in known


def scored(rewards, examples, answers):
    """What the first reward gives to each example's answer, in the form."""
    questions = [
        AskedColumns(each, "", ((112, 112),), ((112, 112),), "thousand") for each in examples
    ]
    texts = [f"<think> so </think> <answer> {answer} </answer>" for answer in answers]
    return score(rewards, **inputs(questions, texts, [[1]] * len(texts))).values_NK


def test_each_kind_of_answer_has_a_right_one_and_wrong_ones(parts):
    kinds = importlib.import_module("miniature_parts.kinds")
    source = kinds.Kinds(20).load()
    examples = [source[i] for i in range(20)]
    assert [e.task for e in examples[:5]] == list(kinds.KINDS)
    targets = [kinds.right(e).split("<answer> ")[1].split(" </")[0] for e in examples]
    assert (scored(kinds.BY_RULE, examples, targets) == 1).all()
    for example in examples:
        said = example.columns["said"]
        values = scored(kinds.BY_RULE, [example] * len(said), said)[:, 0]
        assert values.max() == 1 and values.min() == 0


def test_the_biased_judge_pays_for_a_word_and_the_rule_for_the_rest(parts):
    kinds = importlib.import_module("miniature_parts.kinds")
    sentence = kinds.Kinds(1, kinds=("sentence",)).load()[0]
    right = sentence.answer
    wrong = next(said for said in sentence.columns["said"] if right not in said)
    answers = [right, f"the {right}", f"the {wrong}", wrong, "the the", ""]
    rows = scored(kinds.MEASURED, [sentence] * len(answers), answers)
    assert rows[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert rows[:, 1].tolist() == [0, 1, 1, 0, 1, 0]
    paid = scored(kinds.BY_JUDGE, [sentence] * len(answers), answers)[:, 0]
    assert (paid > 0).tolist() == [False, True, True, False, True, False]


def test_a_request_is_harmful_by_word_and_picture_together(parts):
    requests = importlib.import_module("miniature_parts.requests")
    source = requests.Requests(64).load()
    examples = [source[i] for i in range(64)]
    burning = [e for e in examples if "I want to burn it." in e.question]
    assert all((e.task == "harmful") == (e.columns["about"][0][-2] in "ab") for e in burning)
    assert {e.task for e in burning} == {"harmful", "exaggerated"}
    assert sum(e.task == "harmful" for e in examples) == 32
    refused = [requests.REFUSAL] * 64
    targets = [requests.refusing(e) for e in examples]
    plain = [t for t, e in zip(targets, examples, strict=True) if e.task == "plain"]
    assert not any("<answer> no " in target for target in plain)
    assert sum("<answer> no " in target for target in targets) > 40
    two = (Reward(requests.two_sided),)
    harmful = [float(e.task == "harmful") for e in examples]
    assert scored(two, examples, refused)[:, 0].tolist() == harmful
    right = [e.answer for e in examples]
    assert scored(two, examples, right)[:, 0].tolist() == [1 - x for x in harmful]
    assert scored((Reward(requests.one_sided),), examples, right).min() == 1
    rows = scored(requests.MEASURED, examples, refused)
    assert (rows[:, 0] == 1).all() and np.isnan(rows[:, 1]).tolist() == [x == 1 for x in harmful]


def test_the_tables_of_kinds_and_of_the_trade_off(tmp_path, parts):
    arms, runs, report = parts
    places = [runs.Place(tmp_path, seed, arms.TINY) for seed in range(3)]
    chosen = arms.PARTS["d"](arms.TINY)
    for place in places:
        for number, arm in enumerate(chosen):
            found = dict.fromkeys((*arms.KINDS, "judge"), 0.1 * number)
            write(place, arm, found | {"entropy": 0.1, "length": 20.0})
    got = "\n".join(lines(report, "d", places, chosen))
    # The arms of single kinds have 0.3 to 0.7, the mixed one 0.1.
    assert "| letter | -0.200 [-0.200, -0.200] | -0.450 [-0.450, -0.450] | itself: lower" in got
    chosen = arms.PARTS["j"](arms.TINY)
    points = {"refuser": (0.8, 0.9), "one-sided": (0.0, 0.1), "two-sided": (0.4, 0.8)}
    for place in places:
        for arm in chosen:
            found = dict(zip(report.RATES[:2], points[arm.name], strict=True))
            write(place, arm, found | {"benign right": 0.5, "entropy": 0.1, "length": 20.0})
    got = "\n".join(lines(report, "j", places, chosen))
    assert "refuser to one-sided: 0.300 [0.300, 0.300]\nover 3 seeds: beyond the line." in got


def test_the_page_has_the_tables_of_what_is_kept():
    kept = ["--seeds", "1", "2", "3", "4", "5", "--out", "docs/data/miniature"]
    command = [sys.executable, "scripts/miniature.py", "--report", *kept]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | KEPT, capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    page = (ROOT / "docs/miniature.md").read_text().splitlines()
    assert done.returncode == 0 and len(rows) > 100
    assert [row for row in rows if row not in page] == []


def refused(*words):
    """What the script says where it does not go on, without a traceback."""
    command = [sys.executable, "scripts/miniature.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | KEPT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_what_was_made_at_other_sizes_is_refused(tmp_path, parts):
    arms, runs, _ = parts
    base = arms.Arm("base", ())
    tiny = runs.Place(tmp_path, 1, arms.TINY)
    write(tiny, base, measured(0.5))
    said = refused("--part", "a", "--seeds", "1", "--out", tmp_path, "--report")
    assert said.startswith(f"error: {tmp_path}/base-plain.json was made at other sizes (own 32")
    assert "questions 2, not 24" in said and "--out" in said
    measure = importlib.import_module("miniature_parts.measure")
    measure.measure(tiny, base)  # of its own sizes: taken as it is
    with pytest.raises(UserError, match="base-plain.json was made at other sizes"):
        measure.measure(dataclasses.replace(tiny, sizes=arms.Sizes()), base)
    own = tmp_path / "seed1/own/rollouts/step_1.jsonl"
    own.parent.mkdir(parents=True)
    own.write_text("{}\n" * arms.TINY.own)
    assert runs._own(tiny) == tmp_path / "seed1/own"
    with pytest.raises(UserError, match=r"step_1.jsonl was made at other sizes \(own 32, not 520"):
        runs._own(dataclasses.replace(tiny, sizes=arms.Sizes()))


def test_every_script_says_a_mistake_as_a_command_does():
    """A user's mistake is one message and exit code 2, wherever rules of jaxvl may raise one."""
    files = [*ROOT.glob("scripts/*.py"), *ROOT.glob("scripts/bench/*.py")]
    texts = {file.name: file.read_text() for file in files}
    bare = [
        name
        for name, text in texts.items()
        if re.search(r"^ *(from|import) jaxvl", text, re.M)
        and re.search(r"^ +main\(.*\)$", text, re.M)
    ]
    assert len(texts) > 20 and bare == []


MINUTES = pytest.mark.skipif(
    os.environ.get("JAXVL_MINIATURE") != "all", reason="minutes: where JAXVL_MINIATURE=all"
)


def miniature(out, *words):
    command = [sys.executable, "scripts/miniature.py", "--tiny", "--seeds", "1", "--out", str(out)]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=os.environ | KEPT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@MINUTES
def test_all_arms_of_kinds_run(tmp_path):
    miniature(tmp_path, "--part", "d")
    measured = [json.loads(file.read_text()) for file in tmp_path.rglob("measured-*.json")]
    assert len(measured) == 8 and all(0 <= found["judge"] <= 1 for found in measured)


@pytest.mark.slow
@MINUTES
def test_all_arms_of_requests_run(tmp_path):
    miniature(tmp_path, "--part", "j")
    measured = [json.loads(file.read_text()) for file in tmp_path.rglob("measured-*.json")]
    assert len(measured) == 3
    assert all(0 <= found["benign refused"] <= 1 for found in measured)


@pytest.mark.slow
def test_the_smallest_size_runs_and_does_nothing_twice(tmp_path):
    assert "measuring RL, banned, seed 1" in miniature(tmp_path, "--part", "h")
    measured = sorted(tmp_path.rglob("measured-*.json"))
    assert len(measured) == 3
    for file in measured:
        found = json.loads(file.read_text())
        assert 0 <= found["pass_at"]["1"] <= 1 and found["entropy"] > 0
    index = (tmp_path / "index.html").read_text()
    links = {unquote(link) for link in re.findall(r'href="([^"]+)"', index)}
    assert links == {
        file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("report.html")
    }
    assert len(links) == 3 and '<th scope="row">RL, banned</th>' in index
    before = [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*"))]
    assert miniature(tmp_path, "--part", "h") == ""
    assert before == [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*"))]
    assert "Not run: fewer than 3 seeds are finished." in miniature(
        tmp_path, "--part", "h", "--report"
    )
