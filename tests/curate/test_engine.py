# SPDX-License-Identifier: Apache-2.0
"""On an engine with two workers: the same bytes as in one process, nothing asked twice."""

import functools
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from jaxvl.curate import flow, metadata, split
from jaxvl.curate.perplexity import PerplexityScorer, select
from jaxvl.curate.teachers import TeacherSettings, open_teacher
from jaxvl.data.engine import LOCAL, Spans, opened
from jaxvl.data.prepare import prepare
from jaxvl.data.tasks.records import Records
from jaxvl.errors import UserError
from tests.curate.sets import jsonl, picture, teaching, write_sets

pytestmark = pytest.mark.filterwarnings("ignore:::ray")  # Ray's own warnings of itself


@pytest.fixture(scope="module")
def ray_data():
    pytest.importorskip("ray.data", reason="the extra `ray` is not installed")
    with opened("ray", 2) as engine:
        yield engine


def contents(folder):
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".sqlite"]
    return {path.name: path.read_bytes() for path in files}


def curated(paths, out, url, engine):
    """The files of all six steps, and what their teachers counted."""
    asked = {name: TeacherSettings(url, name, timeout=20.0, concurrency=2) for name in flow.ASKING}
    steps = flow.Flow(**asked).steps(out / "images", None)
    counts = {name: 0 for name in flow.ASKING}

    def count(step, found):
        counts[step] += found["requests"]

    teacher = _teacher
    done = flow.run(
        paths, out, steps, teacher, metadata.Chosen(all_questions=True), split.SplitSizes(),
        engine=engine, on_counts=count,
    )  # fmt: skip
    list(done)
    return contents(out), counts


def _teacher(step, cache):
    return open_teacher(step.asked, step.name, cache, None)


def test_six_steps_on_two_workers_write_the_same_bytes_and_ask_nothing_twice(ray_data, tmp_path):
    paths = write_sets(tmp_path / "sets", 16)
    found = {}
    for name, engine in (("local", LOCAL), ("ray", ray_data)):
        with teaching() as (url, asked):
            # As all settings, the address is in the manifest; it is the same in both.
            files, counts = curated(paths, tmp_path / name, url, engine)
        assert sum(counts.values()) == asked.total() and max(asked.values()) == 1
        port = url.split("/")[2].encode()
        found[name] = {file: data.replace(port, b"PORT") for file, data in files.items()}
        rows = [file for file in files if file.endswith(".jsonl")]
    assert {file: found["local"][file] for file in rows} == {
        file: found["ray"][file] for file in rows
    }
    assert found["local"].keys() == found["ray"].keys()


def test_a_set_prepared_by_two_workers_has_the_same_bytes(ray_data, tmp_path):
    rows = [{"question": f"What is {n}?", "answer": str(n), "image": f"{n}.png"} for n in range(23)]
    rows[7]["image"] = "none.png"
    for n in range(23):
        picture(tmp_path / f"{n}.png", n)
    source = Records(str(jsonl(tmp_path / "rows.jsonl", rows)))
    done = [
        prepare("own", source, tmp_path / f"out-{engine.workers}", shard=5, engine=engine)
        for engine in (LOCAL, ray_data)
    ]
    assert done[0] == done[1] and done[0]["rows_out"] == 22
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-2")


def test_a_preparation_with_gaps_is_filled_up(tmp_path):
    """As workers that were stopped leave it: a later shard is there and an earlier one is not."""
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(20)]
    source = Records(str(jsonl(tmp_path / "rows.jsonl", rows)))

    class Stopped(Exception):
        pass

    def stop(rows):
        raise Stopped

    class Backwards:
        workers = 2

        def map(self, make, items, model=False):
            return map(make(), reversed(list(items)))

    prepare("own", source, tmp_path / "whole", shard=4)
    for _ in range(2):
        with pytest.raises(Stopped):
            prepare("own", source, tmp_path / "out", shard=4, engine=Backwards(), on_rows=stop)
    prepare("own", source, tmp_path / "out", shard=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _logprobs(prompts, images, completions):
    return [[np.full(len(text), -len(text) / 9, np.float32)] for (text,) in completions]


def test_perplexity_by_two_workers_selects_the_same(ray_data, tmp_path):
    for n in range(13):
        picture(tmp_path / "images" / "s" / f"{n}.png", n)
    rows = [
        {"id": f"s-{n}", "source": "s", "image": f"s/{n}.png", "question": "q", "answer": "x" * n}
        for n in range(1, 13)
    ]
    source = jsonl(tmp_path / "sft.jsonl", rows)
    scorer = PerplexityScorer("a", functools.partial(lambda: _logprobs))
    for engine in (LOCAL, ray_data):
        out = tmp_path / f"out-{engine.workers}"
        select(source, out, [scorer], [3, 7], batch=2, engine=engine)
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-2")


def _dying(marker, times):
    """Work of which item 3 kills its process so many times."""

    def work(item):
        before = marker.stat().st_size if marker.exists() else 0
        if item == 3 and before < times:
            marker.write_bytes(b"x" * (before + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 30:
            raise UserError("row 30: found nothing")
        return item * item

    return work


def test_a_worker_that_dies_is_replaced_and_one_that_always_dies_ends_it(ray_data, tmp_path):
    make = functools.partial(_dying, tmp_path / "once", 1)
    assert list(ray_data.map(make, range(9))) == [n * n for n in range(9)]
    with pytest.raises(UserError, match="row 30: found nothing"):
        list(ray_data.map(make, range(29, 33)))
    with pytest.raises(UserError, match="has died"):
        list(ray_data.map(functools.partial(_dying, tmp_path / "always", 99), range(9)))


@pytest.mark.parametrize(
    ("name", "workers", "message"),
    [("local", 2, "give --engine ray"), ("beam", 0, "expected local or ray")],
)
def test_an_engine_that_is_none_is_named(name, workers, message):
    with pytest.raises(UserError, match=message), opened(name, workers):
        pass


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'jaxvl\[ray\]'"), opened("ray", 2):
        pass


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    """In place of Ray, whose own time-outs take minutes."""

    def init(**how):
        raise ConnectionError("no answer")

    ray = types.ModuleType("ray")
    ray.init, ray.data = init, types.ModuleType("ray.data")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"on 10\.0\.0\.1:6379 \(no answer\)"), opened("ray", 2):
        pass


def test_spans_are_the_rows_wherever_they_begin():
    opens = []

    def rows(start):
        opens.append(start)
        return iter(range(start, 20))

    spans = Spans(rows)
    wanted = [(0, 4), (4, 4), (12, 4), (2, 3), (18, 4), (22, 2)]
    assert [spans.take(*span) for span in wanted] == [
        list(range(20))[start : start + count] for start, count in wanted
    ]
    assert opens == [0, 2]


def test_processes_that_want_the_same_answer_ask_for_it_once(tmp_path):
    """The second waits for the first, and finds what it has kept."""
    code = (
        "import sys, time\n"
        "from jaxvl.curate.teachers import Own\n"
        "def answer(bodies):\n"
        "    time.sleep(0.3)\n"
        "    open(sys.argv[2], 'a').write('asked\\n' * len(bodies))\n"
        "    return [('7', 'stop')] * len(bodies)\n"
        "own = Own('one', answer, sys.argv[1])\n"
        "texts = [{'n': n} for n in (1, 2, 3)]\n"
        "print(own.post(texts if sys.argv[3] == '0' else texts[::-1], lambda reply: True))\n"
    )
    words = [str(tmp_path / "answers.sqlite"), str(tmp_path / "asked")]
    children = [
        subprocess.Popen([sys.executable, "-c", code, *words, str(n)], stdout=subprocess.PIPE)
        for n in range(2)
    ]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert said[0] == said[1] and all(child.returncode == 0 for child in children)
    assert (tmp_path / "asked").read_text() == "asked\n" * 3
