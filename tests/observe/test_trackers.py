# SPDX-License-Identifier: Apache-2.0
"""Trackers say what metrics.jsonl says, go on where a run does, and never end it."""

import importlib
import importlib.util
import json
import os
import struct
import sys
import time
import types

import pytest

from jaxvl.errors import UserError
from jaxvl.observe import journal, trackers
from jaxvl.observe.journal import Journal
from jaxvl.observe.metrics import read_metrics
from tests.observe.pages import EVIL, rollout

SETTINGS = {"run": {"steps": 6}, "model": {"path": "toy"}}


def line(step):
    return {"reward": step / 7, "rewards/a.b/mean": -1.5 * step, "kl": float("nan"), "n": 3 * step}


def tell(run_dir, name, steps, start=0, every=2):
    """A run's steps, told to one tracker."""
    (run_dir / "rollouts").mkdir(parents=True, exist_ok=True)
    (run_dir / "images").mkdir(exist_ok=True)
    from PIL import Image

    Image.new("RGB", (9, 9), "red").save(run_dir / "images/0.png")
    said = []
    with Journal(run_dir, (name,), every, start, SETTINGS) as notes:
        for step in steps:
            (run_dir / f"rollouts/step_{step}.jsonl").write_text(json.dumps(rollout(step)))
            said += notes.write(step, line(step))
    return said


def expected(steps):
    """{metric: {step: value}} of metrics.jsonl, in which what is not finite has no value."""
    found = {}
    for step in steps:
        for name, value in line(step).items():
            if name != "kl":
                found.setdefault(name, {})[step] = pytest.approx(value, rel=1e-6)
    return found


def events(folder):
    """Messages of a folder's TensorBoard files: records of a length, a check, bytes and a check."""
    from tensorboardX.proto import event_pb2

    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def test_tensorboard_has_what_metrics_jsonl_has(tmp_path):
    pytest.importorskip("tensorboardX")
    run = tmp_path / "run"
    assert tell(run, "tensorboard", range(1, 5)) == []
    assert tell(run, "tensorboard", range(3, 7), start=2) == []  # killed after 4, saved after 2
    found, texts, images, purged = {}, {}, set(), []
    for event in events(run / "tensorboard"):
        if event.session_log.status == event.session_log.START:
            purged.append(event.step)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            elif value.HasField("image"):
                images.add((value.tag, event.step))
            else:
                texts[event.step] = value.tensor.string_val[0].decode()
    assert purged == [3] and found == expected(range(1, 7))
    assert images == {("images/0", step) for step in (2, 4, 6)}
    assert texts[6].count("\n") == 1 + 4 and "<script" not in texts[6] and "<img" not in texts[6]


def records(file):
    """Records of a .wandb file: a LevelDB log after seven bytes, in blocks of 32 KiB."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := -at % 2**15) < 7:  # what is too short for a header is padding
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += size + 7
        if kind in (1, 4):  # the whole of a record, or its end
            yield whole
            whole = b""


def test_wandb_goes_on_with_its_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    assert tell(run, "wandb", range(1, 3)) == []
    first = json.loads((run / journal.NAMES).read_text())["wandb"]
    assert tell(run, "wandb", range(3, 5), start=2) == []
    assert json.loads((run / journal.NAMES).read_text())["wandb"] == first
    files = sorted((run / "wandb").glob(f"offline-run-*/run-{first}.wandb"))
    assert len(files) == 2
    from wandb.proto import wandb_internal_pb2

    read, kinds = wandb_internal_pb2.Record.FromString, []
    deadline = time.monotonic() + 30
    while kinds.count("exit") < 2 and time.monotonic() < deadline:  # its own process writes
        every = [read(data) for file in files for data in records(file)]
        kinds = [record.WhichOneof("record_type") for record in every]
    found = {}
    for record in every:
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            if key in expected([1]):
                found.setdefault(key, {})[record.history.step.num] = json.loads(item.value_json)
    assert found == expected(range(1, 5))


def test_trackio_has_what_metrics_jsonl_has(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the variable when it is imported
    run = tmp_path / "run"
    assert tell(run, "trackio", range(1, 3)) == []
    assert tell(run, "trackio", range(3, 5), start=2) == []
    from trackio.sqlite_storage import SQLiteStorage

    name = json.loads((run / journal.NAMES).read_text())["trackio"]
    assert len(SQLiteStorage.get_runs("jaxvl")) == 1
    found = {}
    for row in SQLiteStorage.get_logs("jaxvl", name):
        for key in expected([1]):
            if key in row:
                found.setdefault(key, {})[row["step"]] = row[key]
    assert found == expected(range(1, 5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, of its database
def test_mlflow_has_what_metrics_jsonl_has(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    run = tmp_path / "run"
    assert tell(run, "mlflow", range(1, 3)) == []
    assert tell(run, "mlflow", range(3, 5), start=2) == []
    run_id = json.loads((run / journal.NAMES).read_text())["mlflow"]
    client = mlflow.MlflowClient()
    found = {
        name: {one.step: one.value for one in client.get_metric_history(run_id, name)}
        for name in client.get_run(run_id).data.metrics
    }
    assert found == expected(range(1, 5))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run_id)} >= {"config.json", "completions"}


class Failing:
    """A tracker that cannot be told some steps."""

    def __init__(self, bad):
        self.bad, self.told, self.closed = bad, [], None

    def write(self, step, metrics):
        if step in self.bad:
            raise ConnectionError("no network\nat all")
        self.told.append(step)

    def show(self, step, table):
        self.table = table

    def close(self, failed):
        self.closed = failed
        raise OSError("late")


@pytest.mark.parametrize(
    ("bad", "told", "warnings"), [({2}, [1, 3, 4, 5, 6], 1), ({2, 3, 4}, [1], 2)]
)
def test_a_tracker_that_fails_is_a_warning_once(tmp_path, monkeypatch, capsys, bad, told, warnings):
    tracker = Failing(bad)
    monkeypatch.setattr(trackers, "start", lambda name, place: (tracker, "known"))
    said = tell(tmp_path, "wandb", range(1, 7))
    assert len(said) == warnings
    assert said[0] == ("warning: wandb was not told all of step 2 (ConnectionError: no network)")
    assert tracker.told == told and [m["step"] for m in read_metrics(tmp_path)] == [*range(1, 7)]
    assert tracker.closed is (False if warnings == 1 else None)


def test_a_tracker_that_cannot_start_and_a_page_that_cannot_be_written(tmp_path, monkeypatch):
    def start(name, place):
        raise RuntimeError("no key")

    monkeypatch.setattr(trackers, "start", start)
    (tmp_path / "config.json").write_text("{")
    said = tell(tmp_path, "wandb", range(1, 5))
    assert [text.split(" (")[0] for text in said] == [
        "warning: wandb is not told of this run",
        "warning: report.html was not written",
    ]


def test_the_page_of_a_long_run_is_written_more_rarely(tmp_path, monkeypatch):
    """Its time is in proportion to the run: written every few steps it would be what a run does."""
    written = []
    with Journal(tmp_path, report_every=2) as journal:
        monkeypatch.setattr(journal.report, "write", lambda: written.append(step))
        for step in range(1, 101):
            journal.write(step, {})
    assert written == [*range(2, 41, 2), *range(44, 81, 4), 86, 92, 98]


def test_completions_are_a_table_with_their_images(tmp_path, monkeypatch):
    tracker = Failing({})
    monkeypatch.setattr(trackers, "start", lambda name, place: (tracker, ""))
    tell(tmp_path, "mlflow", [2])
    table = tracker.table
    assert table.columns[:4] == ("id", "prompt", "answer", "completion") and len(table.rows) == 4
    assert table.rows[0][3] == EVIL and table.rows[0][table.columns.index("accuracy")] == 1.0
    assert [file.name for file in table.images[0]] == ["0.png"]


def test_a_run_that_begins_again_is_another(tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(
        trackers,
        "start",
        lambda name, place: places.append(place) or (Failing({}), f"{len(places)}"),
    )
    for start in (0, 2, 0):
        tell(tmp_path, "wandb", [start + 1], start=start)
    assert [place.known for place in places] == ["", "1", ""]


def test_a_missing_package_is_told_before_the_run(monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else types.ModuleType
    )
    trackers.check(["tensorboard", "mlflow"])
    with pytest.raises(UserError, match=r"needs the package wandb: pip install wandb, or jaxvl\["):
        trackers.check(["tensorboard", "wandb"])
    with pytest.raises(UserError, match="mlflow more than once"):
        trackers.check(["mlflow", "mlflow"])


def test_every_tracker_of_the_config_has_a_file():
    from typing import get_args, get_type_hints

    from jaxvl.config import Run

    kinds = get_args(get_args(get_type_hints(Run)["track"])[0])
    assert set(kinds) == set(trackers.PACKAGES)
    for name in kinds:
        assert callable(importlib.import_module(f"jaxvl.observe.trackers.{name}").start)


def test_no_key_is_in_a_file(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    tell(tmp_path, "tensorboard", [1, 2])
    for folder, _, files in os.walk(tmp_path):
        for file in files:
            with open(os.path.join(folder, file), "rb") as opened:
                assert b"k" * 40 not in opened.read()
