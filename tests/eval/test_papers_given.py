# SPDX-License-Identifier: Apache-2.0
"""A paper's page of what is no whole row of the paper: it says so, or it is refused."""

import re

import pytest

from jaxvl.errors import UserError
from jaxvl.eval.papers import vlaa
from tests.eval.test_papers import OFFICIAL, grpo, report, results, run

SIX = [(cell.task, cell.figure) for cell in vlaa._SIX.values()]


def rows(sections, title, label):
    """Rows of ours in a table, without what they begin with."""
    return [row[2:] for row in sections[title]["rows"] if row[0] == label and row[1][:4] == "ours"]


def test_a_figure_says_that_it_is_partial_and_by_another_protocol(tmp_path):
    for name, protocol, partial in (("vlaa", "vlaa", False), ("vlaa_sft", "lmms-eval", True)):
        for at, (task, figure) in enumerate(SIX):
            part = partial and at == 2
            results(tmp_path / name, task, {figure: 0.5}, protocol, partial=part)
        one = tmp_path / name
    words = [tmp_path / "vlaa", one, f"Qwen2.5-VL-3B={tmp_path / 'vlaa'}"]
    _, sections, _ = report("vlaa", *words, out=tmp_path / "page.html")
    assert rows(sections, "Table 4: the main results", "VLAA-Thinker-Qwen2.5-3B") == [["50.0"] * 7]
    assert rows(sections, "Table 2: SFT", "SFT, 126K") == [["50.0 by lmms-eval PARTIAL"]]
    (changes,) = rows(sections, "Figure 3: what SFT changes", "Qwen2.5-VL-3B, 126K")
    assert changes[1:3] == ["+0.0 by lmms-eval", "+0.0 PARTIAL by lmms-eval"]
    text = (tmp_path / "page.html").read_text()
    assert "PARTIAL by lmms-eval SFT, 126K" in text or "by lmms-eval PARTIAL SFT, 126K" in text
    # What stands under its model's own label is in bold type as any other figure of ours.
    bold = re.findall(r'<tr class="ours"><td>([^<]*)</td><td>([^<]*)</td>', text)
    assert ("Qwen2.5-VL-3B", "ours") in bold and ("SFT, 126K", "ours: vlaa_sft") in bold
    assert ("SFT, 25K", "ours") not in bold


def test_the_row_that_the_paper_does_not_print(tmp_path):
    name, label = "visualthinker_instruct_direct", "+ RL, asked for the answer alone"
    title = "Table 4: RL from the instruct model"
    run(tmp_path / name, grpo())
    _, sections, _ = report("visualthinker", tmp_path / name, out=tmp_path / "page.html")
    assert (
        f"{label}: {name} is given without scored results of cv_bench" in sections[title]["missing"]
    )
    protocol = "visualthinker-instruct-direct"
    results(tmp_path / name / "eval", "cv_bench", {"accuracy": 0.5}, protocol)
    _, sections, _ = report("visualthinker", tmp_path / name, out=tmp_path / "page.html")
    assert rows(sections, title, label) == [["50.0", "-", "-", "-", "-"]]


def test_every_run_of_a_row_is_drawn(tmp_path):
    run(tmp_path / "visualthinker", grpo(), config={"optim": {"lr": 1e-6}})
    run(tmp_path / "visualthinker_curve", grpo(**{OFFICIAL: 0.5}), config={"optim": {"lr": 2e-6}})
    runs = [tmp_path / name for name in ("visualthinker", "visualthinker_curve")]
    _, sections, charts = report("visualthinker", *runs, out=tmp_path / "page.html")
    one = sections["Figure 1: accuracy and length over steps"]
    accuracy, tokens = (charts[at]["lines"] for at in one["charts"])
    names = ["GRPO: visualthinker_curve", "GRPO: visualthinker"]
    assert [line["name"] for line in tokens] == names
    assert accuracy[0]["name"] == names[0] and f"has no {OFFICIAL}" in one["missing"][0]
    settings = sections["Table 2: hyper-parameters"]["rows"]
    assert ["setting", "the paper", "visualthinker", "visualthinker_curve"] in settings
    assert ["learning rate", "1e-6", "1e-06", "2e-06"] in settings
    # Results under the first of the names do not hide the run under the second.
    results(tmp_path / "x", "cv_bench", {"accuracy": 0.5}, "visualthinker-base")
    words = [f"visualthinker_curve={tmp_path / 'x'}", runs[0]]
    _, sections, charts = report("visualthinker", *words, out=tmp_path / "page.html")
    one = sections["Figure 1: accuracy and length over steps"]
    assert [line["name"] for line in charts[one["charts"][-1]]["lines"]] == ["GRPO"]
    _, sections, _ = report("visualthinker", words[0], out=tmp_path / "page.html")
    (why,) = sections["Figure 1: accuracy and length over steps"]["missing"]
    assert why.startswith("GRPO: visualthinker_curve is given without a run")


def test_a_folder_of_several_models_is_refused(tmp_path):
    results(tmp_path / "all/one", "mathvista", {"accuracy": 0.5}, model="runs/one/hf")
    results(tmp_path / "all/two", "mathverse", {"accuracy": 0.5}, model="runs/two/hf")
    match = "all has results of several models .runs/one/hf in .*all/one, runs/two/hf in .*all/two"
    with pytest.raises(UserError, match=match):
        report("vlaa", tmp_path / "all", out=tmp_path / "page.html")


def test_what_is_on_no_table_of_mossbench_is_said(tmp_path):
    run(tmp_path / "mine", grpo())
    said, *_ = report("mossbench", tmp_path / "mine", out=tmp_path / "page.html")
    assert f"mine: nothing of the run {tmp_path / 'mine'} is on this page" in said
    results(tmp_path / "other", "mossbench", {"refusals": 0.5}, "careful")
    said, *_ = report("mossbench", tmp_path / "other", out=tmp_path / "page.html")
    assert "other: mossbench by careful is in no table of this paper" in said


def test_words_and_places_that_are_none(tmp_path):
    run(tmp_path / "vlaa", grpo())
    with pytest.raises(UserError, match="'vlaa=': it names no directory; expected DIR or NAME=DIR"):
        report("vlaa", "vlaa=", out=tmp_path / "page.html")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out cannot be written"):
        report("vlaa", tmp_path / "vlaa", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "vlaa"]
