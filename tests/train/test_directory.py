# SPDX-License-Identifier: Apache-2.0
"""What operators do to a run's directory: nothing in it is lost, and nothing foreign is taken."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxvl.checkpoints import record
from jaxvl.errors import UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.train import resume, runlock, settings
from tests.train.directories import ROOT, go_on, make, steps_of, write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run")


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("left", ["an empty folder", "no folder", "no metrics either"])
def test_a_disk_that_is_not_mounted_is_seen_whatever_the_run_saved_last(tmp_path, left):
    """A run that was stopped has saved before its first run.save_every."""
    run_dir = write_run(tmp_path / "run", saved=(1,))
    (run_dir / "checkpoints").rename(tmp_path / "disk")
    if left == "an empty folder":
        (run_dir / "checkpoints").mkdir()
    if left == "no metrics either":
        (run_dir / "metrics.jsonl").rename(run_dir / "metrics.old")
    before = files(run_dir)
    with pytest.raises(UserError, match=r"saved.json says that step 1 was saved.*not mounted"):
        go_on(make(run_dir, "run.save_every=100"))
    assert files(run_dir) == before
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    (tmp_path / "disk").rename(run_dir / "checkpoints")
    assert go_on(make(run_dir, "run.save_every=100")).step == 1


def test_a_run_that_is_killed_in_its_first_save_begins_again(tmp_path):
    """Its record may name the step, whose folder is torn."""
    run_dir = write_run(tmp_path / "run", saved=(2,))
    (run_dir / "checkpoints/2/commit_success.txt").unlink()
    (run_dir / "checkpoints/2/files.json").unlink()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:3]))
    for _ in range(2):  # and once more, killed before it has saved
        assert go_on(make(run_dir)) is None
        assert steps_of(run_dir / "checkpoints") == [] and record.newest(run_dir) == 0


def test_rollouts_of_more_than_the_metrics_tell_are_set_aside(run_dir):
    for name in ("metrics.jsonl", record.FILE):
        (run_dir / name).unlink()
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(UserError, match="holds a run already"):
        go_on(make(run_dir, "run.resume=never"))
    assert go_on(make(run_dir)) is None
    (aside,) = (run_dir / "set_aside").iterdir()
    assert len(list((aside / "rollouts").glob("*.jsonl"))) == 5


def test_a_folder_that_no_run_has_made_is_set_aside(run_dir, capsys):
    """A number is its name, and a backup is in it."""
    shutil.copytree(run_dir / "checkpoints/4", run_dir / "checkpoints/20261130/4")
    assert go_on(make(run_dir)).step == 4
    (aside,) = (run_dir / "set_aside").iterdir()
    assert (aside / "checkpoints/20261130/4/commit_success.txt").is_file()
    assert f"kept in {aside}" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_not_taken(run_dir, tmp_path, capsys):
    other = write_run(tmp_path / "other")
    shutil.rmtree(run_dir / "checkpoints/4")
    shutil.copytree(other / "checkpoints/4", run_dir / "checkpoints/4")
    assert go_on(make(run_dir)).step == 2
    assert "step 4 is not used: it is the checkpoint of another run" in capsys.readouterr().out
    fresh = tmp_path / "fresh"  # where checkpoints alone are copied, they are its own
    shutil.copytree(other / "checkpoints", fresh / "checkpoints")
    assert go_on(make(fresh)).step == 4 and record.run_of(fresh) == record.run_of(other)
    moved = shutil.move(run_dir, tmp_path / "moved")
    assert go_on(make(moved)).step == 2


def test_a_chosen_step_that_is_damaged_is_no_word_of_the_others(run_dir):
    (run_dir / "checkpoints/4/files.json").write_text("{")
    with pytest.raises(UserError, match=r"restore_step = 4: .*damaged: .*; .*/checkpoints has 2$"):
        go_on(make(run_dir, "run.restore_step=4"))


@pytest.mark.parametrize("name", ["files.json", "data/metadata", "_CHECKPOINT_METADATA"])
def test_what_cannot_be_read_just_now_is_not_damaged(run_dir, name, monkeypatch):
    """A user without the right to, a mount that has gone stale, too many open files."""
    read = Path.read_bytes

    def refuse(path):
        if path == run_dir / "checkpoints/4" / name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        go_on(make(run_dir))
    monkeypatch.undo()
    assert steps_of(run_dir / "checkpoints") == [2, 4] and go_on(make(run_dir)).step == 4


def test_hard_links_of_a_snapshot_and_links_to_another_disk_stay(run_dir, tmp_path):
    (run_dir / "metrics.jsonl").rename(tmp_path / "far.jsonl")
    (run_dir / "metrics.jsonl").symlink_to(tmp_path / "far.jsonl")
    snapshot = tmp_path / "snapshot"
    subprocess.run(["cp", "-al", run_dir, snapshot], check=True)
    before = {name: (snapshot / name).read_bytes() for name in (settings.FILE, settings.HISTORY)}
    go_on(make(run_dir, "optim.lr=1e-5", "run.allow=optim.lr"))
    assert before == {name: (snapshot / name).read_bytes() for name in before}
    assert (run_dir / "metrics.jsonl").is_symlink()
    assert [line["step"] for line in read_metrics(tmp_path, "far.jsonl")] == [1, 2, 3, 4]


def test_a_checkpoint_that_is_a_link_is_a_message(run_dir, tmp_path):
    """A save would fail over it later, when its turn to be deleted comes."""
    (run_dir / "checkpoints/2").rename(tmp_path / "2")
    (run_dir / "checkpoints/2").symlink_to(tmp_path / "2")
    with pytest.raises(UserError, match=r"checkpoints/2 is a link, .*run.keep"):
        go_on(make(run_dir))
    (run_dir / "checkpoints/2").unlink()
    (run_dir / "checkpoints").rename(tmp_path / "far")
    (run_dir / "checkpoints").symlink_to(tmp_path / "far")
    assert go_on(make(run_dir)).step == 4


def test_a_step_beyond_those_that_are_asked_for_is_said(run_dir, capsys):
    assert go_on(make(run_dir, "run.steps=3")).step == 4
    said = capsys.readouterr().out
    assert "goes on after step 4, which is beyond run.steps = 3: no step is left" in said
    go_on(make(run_dir))
    assert "beyond" not in capsys.readouterr().out


def test_the_lock_of_a_directory_that_was_copied_is_nobodys(tmp_path):
    (tmp_path / "copy").mkdir()
    with runlock.held(tmp_path / "run"):
        shutil.copy(tmp_path / "run" / runlock.FILE, tmp_path / "copy")
        with runlock.held(tmp_path / "copy"):
            pass
        (tmp_path / "same").symlink_to(tmp_path / "run")
        held = json.loads((tmp_path / "run" / runlock.FILE).read_text())
        held |= {"pid": os.getppid(), "started": runlock._started(os.getppid())}
        (tmp_path / "run" / runlock.FILE).write_text(json.dumps(held))
        with (
            pytest.raises(UserError, match="another run is at work"),
            runlock.held(tmp_path / "same"),
        ):
            pass


def test_a_forked_child_does_not_release_the_lock(tmp_path):
    lock = runlock._Lock(tmp_path / runlock.FILE)
    lock.take()
    lock.mine["pid"] -= 1  # as a child sees its parent's
    lock.release()
    assert (tmp_path / runlock.FILE).exists()
    lock.mine["pid"] += 1
    lock.release()
    assert not (tmp_path / runlock.FILE).exists()


def test_the_record_of_a_run_is_any_file(tmp_path):
    for text in ("", "[]", "{", '{"run": 3, "step": "x"}', "[" * 100_000):
        (tmp_path / record.FILE).write_text(text)
        assert record.newest(tmp_path) == 0 and record.run_of(tmp_path) == ""
    record.write(tmp_path, 7)
    word = record.run_of(tmp_path)
    record.write(tmp_path, 9)
    assert record.newest(tmp_path) == 9 and record.run_of(tmp_path) == word != ""
    assert resume.outlook(make(ROOT / "nowhere")) == "begins, 6 steps"
