# SPDX-License-Identifier: Apache-2.0
"""scripts/miniature.py: its tables follow from what was measured; at its smallest size it runs,
and does nothing twice."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.wholes.launch import ROOT


@pytest.fixture
def parts(monkeypatch):
    """The modules of the experiment, as its script imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    names = ("arms", "runs", "report")
    return [importlib.import_module(f"miniature_parts.{name}") for name in names]


# Programs that were compiled once are kept, as the other tests keep theirs.
KEPT = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
MODELS = ("able", "instruct")


def measured(right, entropy=0.1):
    at = {"1": right, "2": 1.0, "4": 1.0 - entropy}
    rest = {"greedy": right, "format": 1.0, "length": 20.0, "hesitation": 0.0}
    return {"pass_at": at, "entropy": entropy, **rest}


def write(place, arm, found):
    file = place.results(arm)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))


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
    for sizes in (arms.FULL, arms.QUICK, arms.TINY):
        for part in arms.PARTS.values():
            for stages in arms.stages_of(part(sizes)):
                for stage in stages:
                    assert 0 < stage.steps <= stage.of
                    known = runs.VARIANTS if stage.kind == "rl" else (*arms.TRACES, *MODELS)
                    assert stage.how in known


@pytest.mark.slow
def test_the_smallest_size_runs_and_does_nothing_twice(tmp_path):
    def miniature(*words):
        command = [sys.executable, "scripts/miniature.py", "--tiny", "--part", "h", "--seeds", "1"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path), *words],
            cwd=ROOT,
            env=os.environ | KEPT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "measuring RL, banned, seed 1" in miniature()
    measured = sorted(tmp_path.rglob("measured-*.json"))
    assert len(measured) == 3
    for file in measured:
        found = json.loads(file.read_text())
        assert 0 <= found["pass_at"]["1"] <= 1 and found["entropy"] > 0
    before = [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*"))]
    assert miniature() == ""
    assert before == [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*"))]
    assert "Not run: fewer than 3 seeds are finished." in miniature("--report")
