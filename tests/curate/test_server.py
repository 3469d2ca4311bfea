# SPDX-License-Identifier: Apache-2.0
"""Teachers behind HTTP on this machine: they fail, stall and answer garbage, and the step ends as
if they had not, or says why not."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from jaxvl.curate import stub, work
from jaxvl.curate.rows import read
from jaxvl.curate.steps import Step, prompt
from jaxvl.curate.teachers import TeacherSettings, open_teacher
from jaxvl.errors import UserError
from jaxvl.rewards.endpoint import chat_reply
from tests.curate.sets import chat, jsonl, teaching, write_sets

ROWS = [
    {"id": f"s-{n}", "source": "s", "question": f"What is {n}?", "gt": str(n), "caption": f"A {n}."}
    for n in range(24)
]
GARBAGE = {
    "nothing": b"",
    "text": b"I am a server",
    "half": chat("Yes")[:-5],
    "a list": "[1]",
    "no choices": '{"choices": []}',
    "another form": '{"reply": "Yes"}',
    "null": '{"choices": [{"message": {"content": null}}]}',
    "a number": '{"choices": [{"message": {"content": 3}}]}',
    "a string of choices": '{"choices": "none"}',
    "half a character": chat("\\ud800").replace("\\\\", "\\"),
    "no UTF-8": b'{"choices": "\xff"}',
}


def distil(url, tmp_path, failed="stop", rows=ROWS, on_counts=lambda counts: None, **settings):
    """A step over ROWS: its manifest and what its teacher counted."""
    fast = {"timeout": 0.4, "retries": 2, "backoff": 0.01, "concurrency": 4}
    asked = TeacherSettings(url, "distil", **(fast | settings))
    step = Step("distil", asked, prompt("distil"), tmp_path / "images")
    opened = []

    def teacher():
        opened.append(open_teacher(asked, "distil", tmp_path / "answers.sqlite", None))
        return opened[0]

    source = jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.jsonl"
    done = work.run(step, source, out, teacher, failed, on_counts=on_counts)
    return done, opened[0].counts if opened else {}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """What comes of a server that does as it should."""
    folder = tmp_path_factory.mktemp("quiet")
    with teaching() as (url, _):
        distil(url, folder)
    return (folder / "out.jsonl").read_bytes(), (folder / "out.dropped.jsonl").read_bytes()


def test_failing_stalling_and_garbling_now_and_then_changes_nothing(quiet, tmp_path):
    draw = random.Random(0)
    bad = [
        (500, b"oops"),
        (429, b""),
        (503, b""),
        None,
        *((200, data) for data in GARBAGE.values()),
    ]

    def answer(body, count):
        if count == 1 and draw.random() < 0.6:
            return draw.choice(bad)
        ((text, _),) = stub.answers("distil")([body])
        return 200, chat(text)

    with teaching(answer) as (url, counts):
        done, _ = distil(url, tmp_path)
        assert max(counts.values()) <= 3
    assert (
        (tmp_path / "out.jsonl").read_bytes(),
        (tmp_path / "out.dropped.jsonl").read_bytes(),
    ) == quiet
    assert done["rows_in"] == 24


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_no_reply_and_is_not_kept(kind, tmp_path):
    with teaching(lambda body, count: (200, GARBAGE[kind])) as (url, _):
        with pytest.raises(UserError, match="requests got no reply that can be read"):
            distil(url, tmp_path, rows=ROWS[:2], retries=0)
        assert not (tmp_path / "out.jsonl").exists()
    with sqlite3.connect(tmp_path / "answers.sqlite") as file:
        assert not file.execute("select name from sqlite_master").fetchall()


def test_a_step_that_was_stopped_by_a_failure_goes_on_and_asks_only_what_lacks(quiet, tmp_path):
    broken = [True]

    def answer(body, count):
        asked = body["messages"][0]["content"][0]["text"]
        if broken[0] and asked.rstrip().endswith(("7?", "13?")):
            return 403, b""
        ((text, _),) = stub.answers("distil")([body])
        return 200, chat(text)

    with teaching(answer) as (url, counts):
        with pytest.raises(UserError, match=r"row s-7 is the first; HTTP 403"):
            distil(url, tmp_path)
        broken[0] = False
        distil(url, tmp_path)
        twice = [json.loads(body) for body, count in counts.items() if count > 1]
        assert len(counts) == 24 and len(twice) == 2  # once before and once after it was mended
    assert (tmp_path / "out.jsonl").read_bytes() == quiet[0]


@pytest.mark.parametrize(
    ("status", "data", "said", "requests"),
    [
        (401, b'{"error": {"message": "no such key"}}', "HTTP 401: no such key", 2),
        (503, b"busy", "HTTP 503: busy", 2 * 3),
        (200, b'{"error": {"message": "no model m"}}', "with an error: no model m", 2 * 2),
        (200, b'{"reply": "Yes"}', "it says .*reply.*Yes.*, no chat reply", 2 * 2),
    ],
)
def test_a_dead_endpoint_is_tried_as_often_as_is_said_and_its_words_and_tries_are_told(
    status, data, said, requests, tmp_path
):
    counted = Counter()
    with teaching(lambda body, count: (status, data)) as (url, counts):
        with pytest.raises(UserError, match=said):
            distil(url, tmp_path, rows=ROWS[:2], on_counts=counted.update)
        assert counts.total() == requests == counted["requests"]


@pytest.mark.parametrize("reason", ["content_filter", "abort", "length"])
def test_a_reply_that_is_not_whole_drops_its_row(reason, tmp_path):
    def answer(body, count):
        ((text, _),) = stub.answers("distil")([body])
        return 200, json.dumps(
            {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
        )

    with teaching(answer) as (url, _):
        done, _ = distil(url, tmp_path, rows=ROWS[:3])
    dropped = "reply was cut off" if reason == "length" else "reply was ended by the server"
    assert done["dropped"] == {dropped: 3}
    assert reason == "length" or reason in (tmp_path / "out.dropped.jsonl").read_text()


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\0\0\0", b'{"row": 3}', b"{}", b"\xff"])
def test_a_damaged_line_of_the_journal_is_told_and_done_again(damage, quiet, tmp_path, capsys):
    broken = [True]

    def answer(body, count):
        if broken[0] and body["messages"][0]["content"][0]["text"].rstrip().endswith("20?"):
            return 403, b""
        ((text, _),) = stub.answers("distil")([body])
        return 200, chat(text)

    with teaching(answer) as (url, counts):
        with pytest.raises(UserError, match="row s-20"):
            distil(url, tmp_path)
        lines = (tmp_path / "out.journal").read_bytes().splitlines()
        assert len(lines) == 17
        lines[5] = damage
        (tmp_path / "out.journal").write_bytes(b"\n".join(lines) + b"\n")
        broken[0] = False
        distil(url, tmp_path)
        assert max(counts.values()) <= 2 and sum(c == 2 for c in counts.values()) == 1
    assert "out.journal, line 6 is damaged" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_bytes() == quiet[0]


def test_rows_without_a_reply_are_dropped_where_that_is_wanted(tmp_path, capsys):
    def answer(body, count):
        if body["messages"][0]["content"][0]["text"].rstrip().endswith("7?"):
            return 403, b"not you"
        ((text, _),) = stub.answers("distil")([body])
        return 200, chat(text)

    with teaching(answer) as (url, _):
        done, _ = distil(url, tmp_path, "drop", timeout=0.2, retries=0)
    assert done["dropped"]["no reply"] == 2
    assert "HTTP 403: not you); their rows are left out" in capsys.readouterr().err
    assert done["out"]["rows"]["rows"] + sum(done["dropped"].values()) == 24


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_are_under_way_than_is_said(tmp_path, concurrency):
    lock, now, most = threading.Lock(), [0], [0]

    def answer(body, count):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        ((text, _),) = stub.answers("distil")([body])
        return 200, chat(text)

    with teaching(answer) as (url, _):
        distil(url, tmp_path, rows=ROWS[:12], concurrency=concurrency, timeout=5.0)
    assert most[0] == concurrency


def test_reasoning_that_a_server_splits_off_is_part_of_the_reply():
    message = {"content": "4", "reasoning_content": "2 + 2"}
    reply = {"choices": [{"message": message, "finish_reason": "length"}]}
    assert chat_reply(reply) == ("<think>\n2 + 2\n</think>\n\n4", "length")


def test_a_key_is_named_and_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "secret-7")
    with teaching() as (url, _):
        distil(url, tmp_path, key="TEACHER_KEY")
    assert all(b"secret-7" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    with teaching() as (url, _), pytest.raises(UserError, match="NO_SUCH_KEY"):
        distil(url + "?2", tmp_path, key="NO_SUCH_KEY")


def test_sigterm_ends_a_run_after_the_requests_under_way(tmp_path):
    """Exit code 143; the run goes on, and no request has come twice."""

    def answer(body, count):
        time.sleep(0.03)
        ((text, _),) = stub.answers(body["model"])([body])
        return 200, chat(text)

    paths = write_sets(tmp_path / "sets", 8)
    with teaching(answer) as (url, counts):
        command = [sys.executable, "-m", "jaxvl", "curate", "run", "--out", str(tmp_path / "run")]
        command += [f"--source={name}={path}" for name, path in paths.items()]
        command += [f"--teacher={url}"]
        for step in ("caption", "distil", "rewrite", "verify"):
            command += [f"{step}.model={step}", f"{step}.concurrency=2"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
        until = time.monotonic() + 60
        while len(counts) < 40 and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
        before = len(counts)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert len(counts) > before >= 40
        assert max(counts.values()) == 1
    assert list(read(tmp_path / "run" / "sft.jsonl"))
