# SPDX-License-Identifier: Apache-2.0
"""A run goes on where it holds itself, says what differs, deletes nothing, and is alone."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvl.checkpoints.store import Checkpoints, SaveFailed
from jaxvl.errors import UserError
from jaxvl.observe.metrics import MetricsWriter, read_metrics
from jaxvl.train import resume, runlock, settings
from tests.train.directories import ROOT, STATE, go_on, make, steps_of, write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run")


@pytest.mark.parametrize("how", ["auto", "true"])
def test_a_run_goes_on_from_its_newest_checkpoint(run_dir, how, capsys):
    assert go_on(make(run_dir, f"run.resume={how}")).step == 4
    assert "run: goes on after step 4" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(run_dir)] == [1, 2, 3, 4]
    for folder in ("rollouts", "rollouts/gaps"):
        assert len(list((run_dir / folder).glob("*.jsonl"))) == 4
    assert not (run_dir / "set_aside").exists()  # a step or two are made again


@pytest.mark.parametrize("how", ["never", "false"])
def test_unless_it_is_told_not_to(run_dir, how):
    with pytest.raises(UserError, match=f"{run_dir} holds a run already: .*run.resume=auto"):
        go_on(make(run_dir, f"run.resume={how}"))
    (run_dir / "metrics.jsonl").unlink()  # its checkpoints are a run all the same
    with pytest.raises(UserError, match="holds a run already"):
        go_on(make(run_dir, f"run.resume={how}"))


@pytest.mark.parametrize("name", ["rollouts", "set_aside", "failed"])
def test_a_file_where_the_run_has_a_folder_is_named(run_dir, name):
    shutil.rmtree(run_dir / name, ignore_errors=True)
    (run_dir / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is no folder, and a run has one there: move it"):
        go_on(make(run_dir, "run.restore_step=2"))
    (run_dir / name).unlink()
    (run_dir / name).symlink_to(name)  # a circle
    with pytest.raises(UserError, match=f"{name} is no folder"):
        go_on(make(run_dir))


@pytest.mark.parametrize("name", ["hf", "adapter", "best"])
def test_a_file_where_the_run_exports_to_is_named_before_it_trains(run_dir, tmp_path, name):
    (run_dir / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is no folder, and a run has one there: move it"):
        go_on(make(run_dir))
    (run_dir / name).unlink()
    (run_dir / name).symlink_to(tmp_path / "elsewhere")  # of another disk, not written yet
    assert go_on(make(run_dir)).step == 4


@pytest.mark.parametrize("make_it", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    "name",
    ["config.json", "config_history.jsonl", "metrics.jsonl", "finished.json", "saved.json"],
)
def test_what_is_no_file_where_the_run_has_one_is_named(run_dir, name, make_it):
    (run_dir / name).unlink(missing_ok=True)
    make_it(run_dir / name)
    with pytest.raises(UserError, match=f"{name} is no file, and a run has one there: move it"):
        go_on(make(run_dir, "run.restore_step=2"))
    assert steps_of(run_dir / "checkpoints") == [2, 4]


def test_an_older_step_can_be_chosen_and_nothing_is_lost(run_dir):
    assert go_on(make(run_dir, "run.restore_step=2")).step == 2
    assert steps_of(run_dir / "checkpoints") == [2]
    (aside,) = (run_dir / "set_aside").iterdir()
    assert steps_of(aside / "checkpoints") == [4]
    assert [line["step"] for line in read_metrics(run_dir)] == [1, 2]
    assert [line["step"] for line in read_metrics(aside)] == [1, 2, 3, 4, 5]
    for folder in ("rollouts", "rollouts/gaps"):
        assert sorted(p.name for p in (aside / folder).glob("*.jsonl")) == [
            f"step_{n}.jsonl" for n in (3, 4, 5)
        ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("optim.lr=1e-5", "optim.lr: 0.0005, now 1e-05"),
        ("sft.rows=16", "sft.rows: 32, now 16"),
        ("run.seed=3", "run.seed: 0, now 3"),
        ("model.train=text", "model.train: .*, now .*text.*"),
        ("data.source.size=9", "data.source.size: .*, now 9"),
        ("optim.schedule=constant", 'optim.schedule: ".*", now "constant"'),
        ("data.shuffle=false", "data.shuffle: true, now false"),
    ],
)
def test_other_settings_are_refused_by_name_unless_allowed(run_dir, change, line, capsys):
    name = change.partition("=")[0]
    with pytest.raises(UserError, match=f"(?s)other settings:\n  {line}\n.*run.allow={name}"):
        go_on(make(run_dir, change))
    assert len(read_metrics(run_dir)) == 5  # nothing was touched
    assert go_on(make(run_dir, change, f"run.allow={name},run.dir")).step == 4
    assert f"run: {name}: " in capsys.readouterr().out
    history = (run_dir / settings.HISTORY).read_text().splitlines()
    first, last = map(json.loads, history)
    assert first["config"] != last["config"] and last["after_step"] == 4
    assert go_on(make(run_dir, change)).step == 4  # they are the run's from now on


@pytest.mark.parametrize(
    "change",
    ["run.steps=9", "run.save_every=3", "run.keep=5", "data.workers=0", "mesh.fsdp=2"]
    + [
        "sft.micro_batches=2",
        "sampling.tensor=2",
        "model.remat=block",
        "profile.steps=1:2",
        "run.export=false",
    ],
)
def test_what_changes_nothing_is_let_through_and_said(run_dir, change, capsys):
    assert go_on(make(run_dir, change)).step == 4
    assert f"run: {change.partition('=')[0]}: " in capsys.readouterr().out


def test_a_part_of_a_setting_is_a_setting(run_dir):
    """And what only one of two versions knows is not compared."""
    old = {"optim": {"lr": 1.0, "gone": 2}, "model": {"lora": None, "x": [1, {"a": 2}]}}
    new = {"optim": {"lr": 1.0, "new": 3}, "model": {"lora": {"rank": 4}, "x": [1, {"a": 3}]}}
    old["rewards"], new["rewards"] = [{"weight": 1}, {"weight": 2}], [{"weight": 1}, {"weight": 3}]
    assert list(settings.differences(old, new)) == [
        ("model.lora", None, {"rank": 4}),
        ("model.x", [1, {"a": 2}], [1, {"a": 3}]),
        ("rewards.1.weight", 2, 3),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '"x"', "null", "\0", "[" * 5000, "{}", '{"model": {}, "data": {}, "run": 5}'],
)
def test_a_broken_config_of_a_run_is_a_message(run_dir, text):
    (run_dir / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is broken .*move the file away"):
        go_on(make(run_dir))


def test_what_is_no_file_in_a_runs_directory_is_a_message(run_dir):
    """Nor is a pipe waited for."""
    for make_it in (Path.mkdir, os.mkfifo):
        make_it(run_dir / runlock.FILE)
        with (
            pytest.raises(UserError, match=r"run.lock is no file.*move it"),
            runlock.held(run_dir),
        ):
            pass
        (run_dir / runlock.FILE).rename(run_dir / make_it.__name__)
    (run_dir / "finished.json").write_text("[" * 100_000)
    assert not resume.finished(make(run_dir))


def test_a_run_of_another_kind_is_refused(run_dir):
    """Though their fields have other names, which are not compared."""
    both = json.loads((run_dir / "config.json").read_text())
    both["grpo"] = both.pop("sft")
    (run_dir / "config.json").write_text(json.dumps(both))
    with pytest.raises(UserError, match="is of reinforcement learning, and this one is supervised"):
        go_on(make(run_dir))


def test_a_step_to_go_on_from_is_there_before_anything_is_loaded(run_dir, tmp_path):
    with pytest.raises(UserError, match=r"run.restore_step = 3: .* has 4, 2: take one of these"):
        resume.check(make(run_dir, "run.restore_step=3"))
    with pytest.raises(UserError, match=r"run.restore_step = 3: .* has none"):
        resume.check(make(tmp_path / "new", "run.restore_step=3"))


@pytest.mark.parametrize("name", ["optim.lrr", "nothing", "optim.lr.x", "rewards.9.weight", ""])
def test_a_setting_that_is_not_there_cannot_be_allowed(tmp_path, name):
    with pytest.raises(UserError, match=f"run.allow: there is no field `{name}`"):
        make(tmp_path, f'run.allow=["{name}"]')


@pytest.mark.parametrize(
    ("last", "left", "refused"),
    [
        (900, None, True),  # a volume that is not mounted
        (900, [], True),  # an empty folder is there to mount it on
        (3, [], True),
        (900, ["2"], True),  # a save that was cut short; others must have been before
        (4, ["2"], False),  # killed in the first save
        (2, [], False),
        (1, None, True),  # the folder is made before the first step
    ],
)
def test_a_run_that_has_lost_its_checkpoints_is_refused(tmp_path, last, left, refused):
    for step in range(1, last + 1) if last < 10 else (last,):
        MetricsWriter(tmp_path).write(step, {})
    if left is not None:
        (tmp_path / "checkpoints").mkdir()
        for name in left:
            (tmp_path / "checkpoints" / name).mkdir()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    if refused:
        with pytest.raises(UserError, match=f"says step {last}, but .*is a disk not mounted"):
            go_on(make(tmp_path))
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
    else:
        assert go_on(make(tmp_path)) is None
        assert read_metrics(tmp_path) == []


def test_a_finished_run_is_known(run_dir):
    cfg = make(run_dir, "run.steps=4")
    assert not resume.finished(cfg)
    resume.finish(cfg)
    assert resume.finished(cfg) == 4
    assert not resume.finished(make(run_dir, "run.steps=8"))
    assert not resume.finished(make(run_dir, "run.restore_step=2"))
    shutil.rmtree(run_dir / "checkpoints/4")
    assert not resume.finished(cfg)  # its newest checkpoint is gone: it goes on from the one before
    for broken in ("", "[]", '{"steps": "6"}', "{}", "\xff"):
        (run_dir / resume.FINISHED).write_text(broken)
        assert not resume.finished(cfg)


def test_stray_rollouts_are_left_alone(run_dir):
    for name in ("step_x.jsonl", "step_.jsonl", "notes.txt", "step_9", "step_-3.jsonl"):
        (run_dir / "rollouts" / name).touch()
    go_on(make(run_dir))
    assert len(list((run_dir / "rollouts").iterdir())) == 4 + 5 + 1  # gaps/


class Elsewhere:
    """A lock that another holds."""

    def __init__(self, folder, **more):
        self.file = folder / runlock.FILE
        self.says = {
            "word": "x",
            "pid": 1,
            "host": "far",
            "place": "far",
            "started": "1",
            "beat": 0,
        }
        self.says |= more
        self.write()

    def write(self):
        self.file.write_text(json.dumps(self.says))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runlock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(runlock, "EXPIRES_SECONDS", 0.4)


def test_a_second_run_in_a_directory_is_refused(tmp_path):
    """Of this machine: at once; and what was killed is nobody's."""
    code = "import sys, time; from pathlib import Path; from jaxvl.train import runlock\n"
    code += "with runlock.held(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert other.stdout.readline() == "in\n"
    with (
        pytest.raises(UserError, match=f"process {other.pid} on {socket.gethostname()}"),
        runlock.held(tmp_path),
    ):
        pass
    other.kill()
    other.communicate()
    with runlock.held(tmp_path):
        assert json.loads((tmp_path / runlock.FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / runlock.FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0", '{"pid": "x"}'])
def test_a_torn_lock_is_nobodys(tmp_path, text, quick):
    (tmp_path / runlock.FILE).write_text(text)
    with runlock.held(tmp_path):
        pass


def test_a_lock_of_another_machine_is_watched(tmp_path, quick, capsys):
    Elsewhere(tmp_path)
    with runlock.held(tmp_path):
        assert "no sign of life" in capsys.readouterr().out
    alive, stop = Elsewhere(tmp_path), threading.Event()

    def beat():
        while not stop.wait(0.05):
            alive.says["beat"] += 1
            alive.write()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 1 on far"), runlock.held(tmp_path):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_lock_of_a_process_that_is_gone_or_another_now_is_free(tmp_path):
    place = runlock._place()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid, started in ((gone.pid, "5"), (os.getppid(), "1"), (os.getpid(), "1"), (2**40, "1")):
        Elsewhere(tmp_path, **{**place, "pid": pid, "started": started})
        with runlock.held(tmp_path):
            pass


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only", "nul", "too long"])
def test_a_run_dir_that_cannot_be_is_a_message(tmp_path, kind):
    (tmp_path / "file").write_text("x")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file/run"}
    places |= {
        "read-only": Path("/proc/run"),
        "nul": Path("a\0b"),
        "too long": tmp_path / ("x" * 300),
    }
    with (
        pytest.raises(UserError, match="run.dir = .*(cannot be written|in, a file)"),
        runlock.held(places[kind]),
    ):
        pass


FAULTS = {
    "gone": lambda path: path.rename(path.with_name("x")),
    "a file": lambda path: (path.rename(path.with_name("x")), path.write_text("x")),
    "a probe in the way": lambda path: (path / ".probe").mkdir(),
    "a link to nowhere": lambda path: (path.rename(path.with_name("x")), path.symlink_to("/no")),
    "a step in the way": lambda path: (path / "9").write_text("x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_cannot_begin_is_one_message(tmp_path, fault):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, STATE, {})
    checkpoints.manager.wait_until_finished()
    FAULTS[fault](checkpoints.path)
    start = time.monotonic()
    try:
        checkpoints.save(9, STATE, {})
        checkpoints.close()
    except SaveFailed as error:
        assert f"could not be saved in {checkpoints.path}" in str(error)
    else:
        assert (checkpoints.path / "9/commit_success.txt").is_file()  # orbax took it out of its way
    assert time.monotonic() - start < 10


def test_a_failed_save_may_be_a_warning(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, on_failure="warn")
    checkpoints.save(1, STATE, {})
    checkpoints.manager.wait_until_finished()
    (checkpoints.path / ".probe").mkdir()
    checkpoints.save(2, STATE, {})
    assert "warning: a checkpoint could not be saved" in capsys.readouterr().err
    (checkpoints.path / ".probe").rmdir()
    checkpoints.save(3, STATE, {})
    checkpoints.close()
    assert steps_of(checkpoints.path) == [1, 3]


def test_checkpoints_that_are_a_file_are_a_message(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(UserError, match="cannot be a folder of checkpoints"):
        Checkpoints(tmp_path, keep=1)


def test_the_state_that_goes_on_is_the_one_that_was_saved(run_dir):
    found = go_on(make(run_dir))
    assert found.data == {"position": 4}
    jax.tree.map(np.testing.assert_array_equal, found.state, STATE)


def test_lines_of_metrics_that_are_gone_are_told(run_dir, capsys):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:1]))
    go_on(make(run_dir))
    said = capsys.readouterr().out
    assert "metrics.jsonl lacks the lines of 3 of the 4 steps that are done" in said
    (run_dir / "metrics.jsonl").unlink()
    go_on(make(run_dir))
    assert "lacks the lines of 4 of the 4 steps" in capsys.readouterr().out
