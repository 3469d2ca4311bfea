# SPDX-License-Identifier: Apache-2.0
"""What scripts/bench/soak.py takes for growth, of looks at a run that are made up."""

import importlib
import itertools

import pytest

from tests.wholes.launch import ROOT

STEPS, WARM, LOOKS = 600, 200, 4  # looks of a step


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts/bench"))
    return importlib.import_module("soak")


def looks(**more):
    """Of a run that grows in nothing but what `more` says, as a function of the step."""
    at_rest = {"resident MiB": 1000, "files": 15, "threads": 60, "processes": 2}
    at_rest["workers' MiB"] = 100
    found = []
    for step, look in itertools.product(range(1, STEPS + 1), range(LOOKS)):
        saves = step % 50 == 0 and look == 0
        one = {kind: size + 10 * saves for kind, size in at_rest.items()}
        for kind, grown in more.items():
            one[kind.replace("resident", "resident MiB")] += grown(step)
        found.append({"step": step, **one})
    return found


def lines(compiled_at=1):
    return [
        {"step": step, "step_time": 0.7, "perf/compiles": 1 + (step >= compiled_at)}
        for step in range(1, STEPS + 1)
    ]


def test_a_run_that_grows_in_nothing(soak, capsys):
    assert soak.flat(looks(), lines(), WARM)
    assert "resident memory grew by 0.0%; more of: nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, said",
    [
        ({"files": lambda step: step // 300}, "more of: files"),
        ({"threads": lambda step: step // 550}, "more of: threads"),
        ({"processes": lambda step: step // 100}, "more of: processes"),
        ({"files": lambda step: 20 * (step == 500)}, "more of: files at most"),
        ({"resident": lambda step: step / 5}, "grew by 5.7%"),
        ({"resident": lambda step: 100 * (step == 550)}, "grew by 9"),
    ],
)
def test_what_grows_is_named(soak, capsys, more, said):
    assert not soak.flat(looks(**more), lines(), WARM)
    assert said in capsys.readouterr().out


def test_a_program_called_first_after_the_warm_up(soak):
    assert soak.flat(looks(), lines(compiled_at=WARM), WARM)
    assert not soak.flat(looks(), lines(compiled_at=WARM + 1), WARM)
