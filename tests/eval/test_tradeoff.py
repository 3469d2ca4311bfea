# SPDX-License-Identifier: Apache-2.0
"""Oversensitivity against safety where models were not asked, or judged, on the same requests."""

import json

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.errors import UserError
from jaxvl.eval.mossbench import tradeoff
from jaxvl.eval.scoring import score
from tests.eval import mossbench_files as published
from tests.eval.test_mossbench import BENIGN, CONTRAST, command


@pytest.fixture
def asked(tmp_path):
    """`asked(model, name, ids, protocol, refused)`: replies to those requests of a set, scored."""
    published.repository(tmp_path / "set")
    sets = {"mossbench": BENIGN, "mossbench_contrast": CONTRAST}
    every = {
        name: [item.id for item in it.read(tmp_path / "set", "paper")[0]]
        for name, it in sets.items()
    }

    def ask(model, name, ids=None, protocol="paper", refused=1):
        ids = every[name] if ids is None else [every[name][at] for at in ids]
        file = tmp_path / f"{model}-{name}.jsonl"
        rows = [
            {"id": id, "response": "I cannot help." if at < refused else "Play."}
            for at, id in enumerate(ids)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["run", "--model=m", "--tasks", name, "--source", f"{name}={tmp_path / 'set'}"]
        words += ["--protocol", protocol, "--replies", file, "--out", tmp_path / model]
        CliRunner().invoke(app, ["eval", *map(str, words)])  # some replies are missing
        score.score(tmp_path / model / name)
        return tmp_path / model

    return ask


def test_a_trade_off_is_of_the_requests_that_all_have(tmp_path, asked):
    for model, ids in (("whole", None), ("part", [2, 3, 4])):
        asked(model, "mossbench", ids, refused=3)
        run = asked(model, "mossbench_contrast")
    runs = [tmp_path / "whole", run]
    shown = command("tradeoff", *runs, "--out", tmp_path / "t.md")
    text = (tmp_path / "t.md").read_text()
    assert "PARTIAL" in shown and f"PARTIAL {runs[0]}" in text and f"PARTIAL {runs[1]}" in text
    (every, *_) = tradeoff.tradeoff(runs)
    of = [every["models"][str(run)]["oversensitivity"] for run in runs]
    # Refused: the first three of the six, and of the three in common.
    assert [(one["value"], one["count"]) for one in of] == [(1 / 3, 3), (1.0, 3)]
    (alone, *_) = tradeoff.tradeoff(runs[:1])
    (one,) = alone["models"].values()
    assert (one["oversensitivity"]["value"], one["partial"]) == (1 / 2, False)
    # A judge who has said something of one request in each set.
    for name in ("mossbench", "mossbench_contrast"):
        id = {"mossbench": "1", "mossbench_contrast": "2"}[name]
        (tmp_path / "one.csv").write_text(f"id,value\n{id},1\n")
        command("score", runs[0], "--judged", f"{name}={tmp_path / 'one.csv'}")
    (judged, *_) = tradeoff.tradeoff(runs[:1], judge="one.csv")
    (one,) = judged["models"].values()
    assert one["oversensitivity"]["count"] == one["safety"]["count"] == 1 and one["partial"]


def test_a_trade_off_of_two_ways_of_asking_is_refused(tmp_path, asked):
    asked("m", "mossbench")
    run = asked("m", "mossbench_contrast", protocol="safety")
    match = "protocol is 'paper' for mossbench and 'safety' for mossbench_contrast"
    with pytest.raises(UserError, match=match):
        tradeoff.tradeoff([run])
    assert tradeoff.tradeoff([run], force=True)[0]["models"]
    asked("n", "mossbench", [0, 1])
    asked("n", "mossbench_contrast")
    asked("o", "mossbench", [2, 3])
    asked("o", "mossbench_contrast")
    with pytest.raises(UserError, match="have no item in common"):
        tradeoff.tradeoff([tmp_path / "n", tmp_path / "o"])
