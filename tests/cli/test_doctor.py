# SPDX-License-Identifier: Apache-2.0
"""The doctor names what would fail, before anything is trained."""

import dataclasses
import functools
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvl import config
from jaxvl.cli import doctor, main
from jaxvl.config import Reward, SFTConfig
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import ChatJudge, judged
from jaxvl.train import resume

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(doctor, "_DISK_BYTES", 2**16)


@pytest.fixture
def cfg(tmp_path):
    return config.load(ROOT / "configs/quickstart.py", [f"run.dir={tmp_path}/run"])


def changed(cfg, **parts):
    return dataclasses.replace(
        cfg,
        **{name: dataclasses.replace(getattr(cfg, name), **more) for name, more in parts.items()},
    )


def found(cfg):
    return {finding.name: finding for finding in doctor.examine(cfg, "quickstart.py")}


def test_what_can_be_trained_has_no_error_and_is_not_touched(cfg):
    findings = found(cfg)
    assert {f.name for f in findings.values() if f.status == "error"} == set(), findings
    assert not Path(cfg.run.dir).exists()
    assert "begins, 200 steps" in findings["run.dir"].text
    assert "accuracy 0.25" in findings["rewards"].text  # one of four made-up answers is right


def test_buckets_that_are_auto_are_those_of_the_first_rows(cfg):
    """As `jaxvl init` and configs/jsonl.py have them."""
    sizes = {"prompt_buckets": "auto", "patch_buckets": "auto"}
    memory = found(changed(cfg, data=sizes))["memory"]
    assert memory.status == "ok" and "prompt_buckets=64 patch_buckets=64" in memory.text
    fixed = found(cfg)["memory"]  # the same sizes, set
    assert memory.text.split(" of ")[0] == fixed.text.split(" of ")[0]
    none = found(changed(cfg, data=sizes | {"check": lambda example: "no"}))
    assert none["memory"].status == "warning" and none["data"].status == "error"
    assert none["rewards"].text == "not called: no row can be used"


def test_every_fault_is_named_beside_the_others(cfg, tmp_path):
    """Six at once: a check that fails keeps none of the others from being made."""

    def broken(prompts, completions, **columns):
        raise KeyError("solution")

    run = tmp_path / "run"
    for step in range(900):
        MetricsWriter(run).write(step, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asks = functools.partial(judged, scorer=ChatJudge(Endpoint(f"http://127.0.0.1:{port}/x"), "m"))
    cfg = changed(cfg, data={"prompt_buckets": (8,), "patch_buckets": "auto"}, mesh={"fsdp": 64})
    cfg = dataclasses.replace(cfg, rewards=(Reward(broken), Reward(asks, name="judge")))
    findings = found(cfg)
    wrong = {name: f.text for name, f in findings.items() if f.status == "error"}
    assert {"mesh", "data", "run.dir", "rewards", "judge"} <= set(wrong), findings
    assert "the largest buckets are 8 and auto" in wrong["data"]
    assert "is a disk not mounted" in wrong["run.dir"]
    assert "solution" in wrong["rewards"]
    assert f"127.0.0.1:{port} cannot be reached" in wrong["judge"]


def test_a_model_that_is_not_there(cfg, tmp_path):
    findings = found(changed(cfg, model={"path": str(tmp_path / "none")}))
    assert findings["model"].status == findings["memory"].status == "error"
    assert findings["data"].status == "warning"  # not looked at


def test_endpoints_are_found_in_functions_of_every_kind():
    one = Endpoint("http://localhost:1/x")
    judge = ChatJudge(one, "m")

    class Held:
        def __init__(self):
            self.judge = judge

    def closure(**columns):
        return judge

    of = (judge, functools.partial(judged, scorer=judge), Held(), closure, [judge], {"a": (judge,)})
    assert [doctor.endpoints(thing) for thing in of] == [[one]] * len(of)
    assert doctor.endpoints(print) == doctor.endpoints(3) == []


def test_the_outlook_of_a_supervised_run(tmp_path):
    cfg = config.load(ROOT / "configs/quickstart_sft.py", [f"run.dir={tmp_path}"], SFTConfig)
    assert resume.outlook(cfg).startswith("begins")
    (tmp_path / "checkpoints/7").mkdir(parents=True)
    (tmp_path / "checkpoints/7/commit_success.txt").touch()
    assert resume.outlook(cfg).startswith("goes on after step 7")


def test_the_command_says_it_by_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "prepare_jax", lambda: None)
    args = ["doctor", str(ROOT / "configs/quickstart.py"), f"run.dir={tmp_path}"]
    done = CliRunner().invoke(main.app, [*args, "data.prompt_buckets=8"])
    assert done.exit_code == 1, done.output
    assert "error    data: 20000 rows" in done.output and "warning  mesh: " in done.output
