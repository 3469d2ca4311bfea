# SPDX-License-Identifier: Apache-2.0
"""scripts/plans.py's table of forecasts, of plans that are made up."""

import importlib
import json

import pytest

from tests.wholes.launch import ROOT


@pytest.fixture
def plans(monkeypatch):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):  # which the script sets
        monkeypatch.setenv(name, "cpu" if name == "JAX_PLATFORMS" else "8")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("plans")


def program(name, calls, parts, kernels=0.0, hbm=0.0):
    seconds = sum(parts.values()) + kernels
    forecast = {"parts": parts, "kernels": kernels, "seconds": seconds}
    return {"name": name, "calls": calls, "forecast": forecast, "roofline": {"hbm": hbm}}


def test_seconds_of_a_step_by_part(plans, tmp_path):
    name = "visualthinker-2b/v5e:4x4"
    found = {
        "settings": plans.recipes()[name][2],
        "programs": [
            program("prefill", 1, {"tower": 0.02, "decoder": 0.03}),
            program("decode_early", 350, {"decoder": 1e-3, "sampling": 1e-4}, hbm=8e-4),
            program("grow", 1, {"rest": 0.005}),
            program("decode", 350, {"decoder": 2e-3, "head": 5e-5}, hbm=1.2e-3),
            program("logprobs", 2, {"decoder": 0.05}, kernels=0.01),
            program("update", 1, {"decoder": 0.3, "tower": 0.1, "rest": 0.01}, kernels=0.02),
        ],
        "forecast_seconds": 1.75,
        "on_top_seconds": {"sorts": 0.0, "exchanges": 0.54, "exchanges_beside": 0.3},
    }
    path = tmp_path / f"{plans.file_name(name)}.json"
    path.write_text(json.dumps(found))
    head, _, row = plans.forecasts(tmp_path).split("\n")
    cells = row.strip("| ").split(" | ")
    assert len(cells) == len(head.strip("| ").split(" | "))
    assert cells == [
        "visualthinker-2b, v5e:4x4",
        "0.05",
        "1.11 (decoder 1.05, sampling 0.04, head 0.02); 63%",
        "0.12",
        "1: 0.43 (decoder 0.30, tower 0.10, attention 0.02, rest 0.01)",
        "1.8",
        "0.54 and 0.00; 0.30",
    ]
    path.write_text(json.dumps(found | {"settings": []}))  # of other settings than today's
    assert plans.forecasts(tmp_path).count("\n") == 1
