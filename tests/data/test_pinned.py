# SPDX-License-Identifier: Apache-2.0
"""The revision of a hub dataset stays that of the run, and an id alone is looked for on the hub."""

import json

import pytest

from jaxvl.data import hub
from jaxvl.data.hub import pinned
from jaxvl.data.tasks.records import Records
from jaxvl.errors import UserError


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A cache with two revisions of a dataset, of which `now` is the newest."""
    now = {"commit": "aaa"}
    for commit in ("aaa", "bbb"):
        folder = tmp_path / "snapshots" / commit
        folder.mkdir(parents=True)
        row = {"question": "2 + 2?", "answer": "4"}
        (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    fetch = lambda uri, split, subset: tmp_path / "snapshots" / now["commit"]  # noqa: E731
    monkeypatch.setattr(hub, "_fetch", fetch)
    return now


def test_a_bare_id_is_the_hubs_and_its_revision_is_kept(fetched, tmp_path, capsys):
    source = Records("me/mine")
    assert source.load()[0].answer == "4"
    assert "there is no me/mine here; hf://datasets/me/mine" in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    assert pinned(source, run) == ["me/mine is at aaa"]
    assert pinned(source, run) == ["me/mine is at aaa"]
    fetched["commit"] = "bbb"
    with pytest.raises(UserError, match="was begun with me/mine at aaa.*me/mine@aaa"):
        pinned(source, run)
    assert json.loads((run / "data.json").read_text())["revision"] == "aaa"


def test_files_of_this_machine_have_no_revision(tmp_path):
    assert pinned(Records(str(tmp_path / "my.jsonl")), tmp_path) == []
    assert pinned(object(), tmp_path) == []
    assert not (tmp_path / "data.json").exists()
    assert hub.address("a/b.jsonl") == "a/b.jsonl" and hub.address(tmp_path) == tmp_path
