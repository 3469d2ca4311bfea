# SPDX-License-Identifier: Apache-2.0
"""What a user of `jaxvl curate` types, and what is said to that."""

import json

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.curate import stub
from jaxvl.curate.rows import read
from jaxvl.errors import UserError
from tests.curate.sets import teaching, write_sets


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"), 12)


def curate(*words):
    """What is printed; raises what `jaxvl` turns into a message."""
    done = CliRunner().invoke(app, ["curate", *map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def sources(sets, *names):
    return [f"--source={name}={sets[name]}" for name in names or sets]


def test_all_steps_at_once_and_one_by_one_give_the_same_rows(sets, tmp_path):
    one, whole = tmp_path / "one", tmp_path / "whole"
    curate("metadata", *sources(sets), "--out", one / "1.jsonl")
    steps = ["caption", "distil", "rewrite", "verify"]
    for number, step in enumerate(steps, 1):
        rows, out = one / f"{number}.jsonl", one / f"{number + 1}.jsonl"
        said = curate(step, rows, "--out", out, "--teacher", "stub")
        assert f"{step}: {len(list(read(out)))} rows" in said and "made these replies up" in said
    curate("split", one / "5.jsonl", "--out", one)
    said = curate("run", *sources(sets), "--out", whole, "--teacher", "stub")
    assert "(35,000)" in said  # the paper's Table 1 stands beside
    for name in ("sft.jsonl", "grpo.jsonl", "aha.jsonl"):
        assert (one / name).read_bytes() == (whole / name).read_bytes()


def test_a_dry_run_asks_nothing_writes_nothing_and_says_what_it_would_cost(sets, tmp_path):
    out = tmp_path / "run"
    words = ["--teacher", "http://127.0.0.1:9/v1/chat/completions", "--model", "m"]
    prices = ["distil.price_in=1", "distil.price_out=1000000"]
    said = curate("run", *sources(sets), "--out", out, *words, *prices, "--dry-run")
    assert "caption: 36 calls" in said and "all: 180 calls" in said and not out.exists()
    cost = float(said.rpartition("cost ")[2].replace(",", ""))
    assert cost > 48 * 600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", ""], "nobody to ask"),
        (["--teacher", "http://127.0.0.1:9/x"], "which model"),
        (["--teacher", "gpt"], "caption: --teacher gpt is neither an address .*local:.*nor stub"),
        (["--teacher", "Stub", "--model", "m"], "--teacher Stub is neither an address"),
        (["--teacher", "stub", "distil.max_tokens=0"], "distil.max_tokens: max_tokens is 0"),
        (["--teacher", "stub", "verify.teacher=local:"], "without a name: neither a directory"),
        (["--teacher", "http://h", "--model", "m", "--key", "NO_SUCH"], "no NO_SUCH"),
        (["--teacher", "stub", "verify.teacher=http://h"], "verify: which model"),
        (["--teacher", "stub", "caption.modl=x"], "did you mean `model`"),
        (["--teacher", "stub", "captoin.model=x"], "did you mean `caption`"),
        (["--teacher", "stub", "caption.concurrency=0"], "concurrency is 0"),
        (["--teacher", "stub", "caption.max_tokens=many"], "max_tokens"),
        (["--teacher", "stub", "--failed", "go"], "expected stop or drop"),
        (["--teacher", "stub", "--take", "clevr_math"], "NAME=VALUE"),
        (["--teacher", "stub", "--take", "clevr_math=few"], "whole number"),
        (["--teacher", "stub", "--sft", "clevr_math=-1"], "whole number"),
        (["--teacher", "stub", "--kind", "clevr_math=maths"], "expected one of"),
        (["--teacher", "stub", "--kind", "mine=math"], "no such source"),
        (["--teacher", "stub", "--take", "clever_math=3"], "did you mean `clevr_math`"),
        (["--teacher", "stub", "--sft", "arxiv_qa=3"], "did you mean `arxivqa`"),
        (["--teacher", "stub", "--rl", "mine=3"], "no such source"),
        (["--teacher", "stub", "--captions", "min=/x"], "no such source"),
        (["--teacher", "stub", "--prompts", "/nowhere"], "no prompt is there"),
        (["--teacher", "stub", "--source", "clevr_math=a"], "each name once"),
        (["--teacher", "local:/nowhere"], "neither a directory nor a hub id"),
    ],
)
def test_mistakes_are_named(sets, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        curate("run", *sources(sets, "clevr_math"), "--out", tmp_path, *words)
    assert not list(tmp_path.iterdir())  # before anything is done


def test_the_paper_s_sizes_can_be_asked_for_and_one_of_them_changed(sets, tmp_path):
    sizes = ["--take", "paper", "--sft", "paper", "--rl", "paper", "--rl", "coco=5"]
    curate("run", *sources(sets), "--out", tmp_path, "--teacher", "stub", *sizes)
    done = json.loads((tmp_path / "6-split.manifest.json").read_text())
    assert done["settings"]["rl"]["coco"] == 5 and done["settings"]["rl"]["clevr_math"] == 2000
    assert done["sources"]["coco"] == {"grpo": 5, "sft": 7}


def test_a_model_of_one_s_own_teaches_and_scores(sets, tmp_path, tiny_path):
    """What it says is its own affair; it is asked once for each row."""
    out = tmp_path / "rows.jsonl"
    curate("metadata", *sources(sets, "coco"), "--out", out)
    rows = [row for row in read(out)][:4]
    for row in rows:
        for name in ("caption", "ds_answer"):
            del row[name]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--out", tmp_path / "c.jsonl", "--teacher", f"local:{tiny_path}", "max_tokens=4"]
    said = CliRunner().invoke(app, ["curate", "caption", *map(str, [few, *words])])
    assert "asked 4 times" in said.output and "none of 4 rows" in str(said.exception)  # all cut off
    done = json.loads((tmp_path / "c.manifest.json").read_text())
    assert done["asked"] == 4 and tiny_path.name in done["settings"]["model"]
    scoring = ["--scorer", tiny_path, "--sizes", "1,2", "--dtype", "float32"]
    curate("select", few, "--out", tmp_path / "few", *scoring)
    assert len(list(read(tmp_path / "few" / "sft-2.jsonl"))) == 2


def test_places_that_cannot_be_written_are_a_message(sets, tmp_path):
    file, out = tmp_path / "file", tmp_path / "out"
    file.write_text("I am a file")
    for where in (file, file / "below", "/proc/below"):
        with pytest.raises(UserError, match="cannot be made or read .*another --out"):
            curate("run", *sources(sets), "--out", where, "--teacher", "stub")
        with pytest.raises(UserError, match="cannot be made or read .*another --out"):
            curate("metadata", *sources(sets), "--out", f"{where}/1.jsonl")
    (tmp_path / "1.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder; expected the name of a file"):
        curate("metadata", *sources(sets), "--out", tmp_path / "1.jsonl")
    out.mkdir()
    (out / "images").write_text("I am a file")
    with pytest.raises(UserError, match="images/.* cannot be written .*expected a folder `images`"):
        curate("run", *sources(sets), "--out", out, "--teacher", "stub")
    (out / "images").unlink()
    curate("metadata", *sources(sets), "--out", out / "1.jsonl")
    (tmp_path / "images").write_text("I am a file")
    with pytest.raises(UserError, match="images/.* cannot be written .*expected a folder `images`"):
        curate("caption", out / "1.jsonl", "--out", tmp_path / "2.jsonl", "--teacher", "stub")


def test_a_scorer_that_is_nowhere_is_told_at_the_start(tmp_path):
    with pytest.raises(UserError, match="/nowhere: neither a directory nor a hub id"):
        curate("select", tmp_path / "rows.jsonl", "--out", tmp_path, "--scorer", "/nowhere")


@pytest.mark.parametrize("lost", ["", "half"])
def test_a_step_whose_list_of_drops_is_lost_is_done_again(lost, sets, tmp_path):
    words = ["run", *sources(sets), "--out", tmp_path, "--teacher", "stub"]
    curate(*words)
    dropped = tmp_path / "5-verified.dropped.jsonl"
    whole = dropped.read_bytes()
    assert whole.count(b"\n") > 1
    dropped.write_bytes(whole.partition(b"\n")[0] + b"\n") if lost else dropped.unlink()
    curate(*words)
    assert dropped.read_bytes() == whole


def test_a_step_that_fails_says_what_it_has_asked(sets, tmp_path):
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    right = json.dumps({"choices": [{"message": {"content": "c"}}], "usage": usage})

    def answer(body, count):
        return (403, "no") if body["model"] == "bad" else (200, right)

    with teaching(answer) as (url, _):
        words = [*sources(sets, "vizwiz"), "--out", tmp_path, "--teacher", url, "--model", "bad"]
        words += ["caption.model=good", "caption.price_in=100000"]
        done = CliRunner().invoke(app, ["curate", "run", *map(str, words)])
    assert "asked 12 times, 0 known, cost 12.00" in done.output
    assert "distil: not finished\n  asked 12 times, 0 known\n" in done.output
    assert "HTTP 403: no" in str(done.exception)


def test_a_single_step_that_leaves_nothing_ends_as_all_six_do(sets, tmp_path, monkeypatch):
    curate("metadata", *sources(sets, "vizwiz"), "--out", tmp_path / "1.jsonl")
    monkeypatch.setattr(stub, "answers", lambda step: lambda bodies: [("", "stop")] * len(bodies))
    words = ["curate", "caption", tmp_path / "1.jsonl", "--out", tmp_path / "2.jsonl"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*map(str, words), "--teacher", "stub"])
        assert isinstance(done.exception, UserError)
        assert "caption: none of 12 rows came through" in str(done.exception)
        assert "left out: 12 empty reply" in done.output


def test_a_step_that_leaves_nothing_is_a_message(sets, tmp_path, monkeypatch):
    """Each time it is asked for, and the steps after it are not begun."""
    monkeypatch.setattr(stub, "answers", lambda step: lambda bodies: [("No", "stop")] * len(bodies))
    words = [*sources(sets, "vizwiz"), "--out", tmp_path, "--teacher", "stub"]
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of .* rows came .*dropped.jsonl in .* to go on"):
            curate("run", *words)
    assert not list(tmp_path.glob("4-*"))
