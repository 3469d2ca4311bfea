# SPDX-License-Identifier: Apache-2.0
"""The papers' figures and tables from runs and results, through the command line: ours stand where
they belong, and what is missing is named."""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.curate import sources
from jaxvl.errors import UserError
from jaxvl.eval.papers import visualthinker, vlaa
from jaxvl.eval.papers.curves import recipe
from jaxvl.eval.papers.page import PAPERS
from jaxvl.eval.reporting import published
from jaxvl.observe.metrics import MetricsWriter
from tests.eval import mossbench_files
from tests.eval.test_mossbench import answered
from tests.observe.pages import EVIL
from tests.observe.pages import Page as Scripts

ROOT = Path(__file__).parents[2]


class Sections(HTMLParser):
    """By heading: missing items, rows of tables, charts by number, texts, and how many SVGs."""

    def __init__(self, text):
        super().__init__()
        self.sections, self._into = {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._into = tag if tag in ("h2", "li", "td", "th", "pre") else None
        if tag == "h2":
            self.section = {"missing": [], "rows": [], "charts": [], "svg": 0, "pre": []}
        elif tag == "tr" and self.sections:
            self.section["rows"].append([])
        elif tag == "svg":
            self.section["svg"] += 1
        elif "data-chart" in attrs:
            self.section["charts"].append(int(attrs["data-chart"]))

    def handle_endtag(self, tag):
        self._into = None

    def handle_data(self, data):
        if self._into == "h2":
            self.sections[data] = self.section
        elif self._into == "li":
            self.section["missing"].append(data)
        elif self._into in ("td", "th") and self.sections:
            self.section["rows"][-1].append(data)
        elif self._into == "pre":
            self.section["pre"].append(data)


def report(paper, *words, out):
    """What the command prints, the sections of its page and the page's charts."""
    done = CliRunner().invoke(
        app, ["report", "--paper", paper, *map(str, words), "--out", str(out)]
    )
    if done.exception:
        raise done.exception
    text = out.read_text()
    charts = Scripts(text).data["charts"]
    for chart in charts:  # never an empty one
        assert chart["lines"] and all(line["values"] for line in chart["lines"])
    return done.output, Sections(text).sections, charts


def run(folder, lines, completions=(), config=None):
    """A run directory: lines of metrics by step, and completions of step 2."""
    writer = MetricsWriter(folder)
    for step, line in lines.items():
        writer.write(step, line)
    (folder / "config.json").write_text(json.dumps(config or {"model": {"path": "m"}}))
    if completions:
        (folder / "rollouts").mkdir()
        found = [{"text": text, "rewards": {"accuracy": 1.0}} for text in completions]
        line = {"id": "x", "prompt": EVIL, "image_files": [], "completions": found}
        (folder / "rollouts/step_2.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def results(folder, task, values, protocol="p", modes=("strict", "lenient"), model="m", **more):
    """Scored results of a task, with the same values for each mode."""
    (folder / task).mkdir(parents=True)
    estimates = {
        name: {"value": value, "low": None, "high": None, "count": 1}
        for name, value in values.items()
    }
    of = {"metrics": estimates, "groups": {}}
    one = {"task": task, "protocol": protocol, "partial": False, "answered": 1, "items": 1}
    one |= {"modes": dict.fromkeys(modes, of), "judge": {}} | more
    decides = {"task": task, "protocol": protocol, "system_prompt": "", "model": model}
    settings = {"decides": decides, "source": "", "dropped": [], "about": {}}
    for name, text in (
        ("settings", json.dumps(settings)),
        ("scores", ""),
        ("results", json.dumps(one)),
    ):
        suffix = "jsonl" if name == "scores" else "json"
        (folder / task / f"{name}.{suffix}").write_text(text)
    return folder


OFFICIAL = "eval/cv_bench/accuracy_official"


def grpo(tokens=9.0, **more):
    return {step: {"completions/mean_length": tokens + step} | more for step in (1, 2)}


@pytest.fixture
def world(tmp_path):
    """Runs of VisualThinker's page: one has its evaluation inside, one is no row of the paper."""
    one = run(
        tmp_path / "visualthinker",
        {1: {OFFICIAL: 0.25, "completions/mean_length": 8.0}, 2: {"completions/mean_length": 9.0}},
        ["Wait, I check " + EVIL, "so it is left"],
        {"model": {"path": EVIL}, "grpo": {"beta": 0.04}},
    )
    results(
        one / "eval",
        "cv_bench",
        {"accuracy": 0.5, "Count": 0.75},
        "visualthinker-base",
        modes=("strict", "official"),
    )
    run(tmp_path / "visualthinker_sft", {1: {OFFICIAL: 0.125}})
    run(tmp_path / "visualthinker_length", grpo(), ["a", "a a a"])
    run(tmp_path / "mine", grpo(**{OFFICIAL: 0.5}))
    results(tmp_path / "base", "cv_bench", {"accuracy": 0.25}, "visualthinker-base")
    return tmp_path


def test_visualthinkers_figures_and_tables(world):
    names = ("visualthinker", "visualthinker_sft", "visualthinker_length", "mine")
    words = [*(world / name for name in names), f"Qwen2-VL-2B={world / 'base'}"]
    said, sections, charts = report("visualthinker", *words, out=world / "page.html")
    assert "mine: no row of this paper has this name" in said
    one = sections["Figure 2: RL against SFT"]
    (chart,) = (charts[at] for at in one["charts"])
    assert chart["title"] == f"Accuracy (%): {OFFICIAL}" and one["missing"] == []
    assert [(line["name"], line["steps"], line["values"]) for line in chart["lines"]] == [
        ("GRPO", [1], [25.0]),
        ("SFT", [1], [12.5]),
        ("mine", [1, 2], [50.0, 50.0]),
        ("paper: base", [1, 2], [31.38, 31.38]),
        ("paper: instruct", [1, 2], [55.64, 55.64]),
    ]
    frozen = sections["Figure 4: lengths with parts frozen"]
    assert frozen["charts"] == [] and frozen["missing"] == [
        "nothing frozen: not run (configs/papers/visualthinker_instruct.py)",
        "vision encoder frozen: not run (configs/papers/visualthinker_instruct_vision_frozen.py)",
        "LLM frozen: not run (configs/papers/visualthinker_instruct_llm_frozen.py)",
    ]
    hacked = sections["Figure 5: a reward for length"]
    assert [charts[at]["title"] for at in hacked["charts"]] == [
        "Mean length of completions, tokens: completions/mean_length"
    ]
    assert any("has no rewards/length/mean" in one for one in hacked["missing"])
    (reflect,) = (charts[at] for at in sections["Words of reflection over steps"]["charts"])
    shares = {line["name"]: line["values"] for line in reflect["lines"]}
    assert (shares["wait"], shares["check"], shares["aha"]) == ([50.0], [50.0], [0.0])
    assert sections["Figure 6: a long answer under the reward for length"]["pre"][0].endswith(
        "a a a"
    )
    table = sections["Table 3: base, SFT and GRPO"]
    assert ["VisualThinker-R1-Zero", "ours: visualthinker", "50.0", "75.0", *["-"] * 7] in table[
        "rows"
    ]
    assert ["Qwen2-VL-2B", "ours", "25.0", *["-"] * 8] in table["rows"]
    assert ["+ SFT on SAT", "ours", *["not run"] * 9] in table["rows"] and table["svg"] == 2
    assert table["missing"] == [
        "+ SFT on SAT: visualthinker_sft is given without scored results of cv_bench, "
        "blink_spatial, vsr"
    ]
    settings = sections["Table 2: hyper-parameters"]["rows"]
    assert ["weight of the KL", "0.04", "0.04"] in settings
    assert "<script>alert" not in (world / "page.html").read_text()


def test_vlaas_figures_and_tables(tmp_path):
    kinds = {f"mixed/{kind}/reward": 0.5 for kind in ("digit", "open")}
    run(
        tmp_path / "vlaa", grpo(reward=0.1, **kinds), ["Alternatively, wait.", "ALTERNATIVELY", "x"]
    )
    six = [(cell.task, cell.figure) for cell in vlaa._SIX.values()]
    for at, (task, figure) in enumerate(six):
        results(tmp_path / "base", task, {figure: 0.4}, "vlaa")
        results(tmp_path / "sft", task, {figure: 0.1 * at}, "vlaa")
    words = (
        tmp_path / "vlaa",
        f"Qwen2.5-VL-3B={tmp_path / 'base'}",
        f"vlaa_sft={tmp_path / 'sft'}",
    )
    _, sections, charts = report("vlaa", *words, out=tmp_path / "page.html")
    table = sections["Table 2: SFT"]["rows"]
    assert ["Qwen2.5-VL-3B", "ours", "40.0"] in table
    assert ["SFT, 126K", "ours: vlaa_sft", "25.0"] in table
    change = sections["Figure 3: what SFT changes"]
    ours = ["Qwen2.5-VL-3B, 126K", "ours: vlaa_sft"]
    changes = ["-100.0", "-75.0", "-50.0", "-25.0", "+0.0", "+25.0"]
    assert [*ours, *changes] in change["rows"] and change["svg"] == 6
    (of,) = [one for one in change["missing"] if one.startswith("Qwen2-VL-2B, 25K")]
    assert of == "Qwen2-VL-2B, 25K: not run (configs/papers/vlaa_sft_25k_qwen2_2b.py)"
    counts = sections["Figure 7: words of reflection in training"]
    assert ["Qwen2.5-3B", "ours: vlaa", "2", "0", "0", "1", "3"] in counts["rows"]
    assert counts["svg"] == 1 and len(counts["missing"]) == 4
    by_kind = [
        charts[at] for at in sections["Figure 4's rewards: the mixed reward by kind"]["charts"]
    ]
    assert [line["name"] for line in by_kind[0]["lines"]] == ["digit", "open"]
    curves = [
        charts[at]["lines"] for at in sections["Figure 6: length and reward over steps"]["charts"]
    ]
    assert [[line["name"] for line in lines] for lines in curves] == [["GRPO"]] * 2


def test_mossbenchs_refusals_by_type_prompt_and_stage(tmp_path):
    mossbench_files.repository(tmp_path / "set")
    ids = [pid for pid, *_ in mossbench_files.ROWS]  # two of each type
    for protocol, refused in (("paper", 3), ("safety", 6)):
        replies = {id: "I cannot help." if i < refused else "Play." for i, id in enumerate(ids)}
        answered(tmp_path, tmp_path / protocol, "mossbench", replies, protocol)
        CliRunner().invoke(app, ["eval", "score", str(tmp_path / protocol)], catch_exceptions=False)
    words = [f"GPT-4o={tmp_path / 'paper'}", f"GPT-4o={tmp_path / 'safety'}"]
    _, sections, _ = report("mossbench", *words, out=tmp_path / "page.html")
    models = sections["Main results, judged by GPT-4"]
    (row,) = [row for row in models["rows"] if row[:2] == ["GPT-4o", "ours: by the rule"]]
    assert [cell.split()[0] for cell in row[2:]] == ["100.0", "50.0", "0.0", "50.0"]
    assert ["GPT-4o", "the paper", "6", "8", "5", "6.33"] in models["rows"] and models["svg"] == 4
    prompts = sections["Refusals by system prompt"]
    found = {row[0]: row[2] for row in prompts["rows"] if row[1] == "ours: GPT-4o"}
    assert found["none"].startswith("100.0") and set(found) == {"none", "safety"}
    assert [one.split(":")[0] for one in prompts["missing"]] == ["helpfulness", "scrutiny"]
    assert "--protocol stages" in sections["Stages: perception"]["missing"][0]
    assert "mossbench_contrast" in sections["Oversensitivity against safety"]["missing"][0]


def test_what_cannot_be_used_is_a_message(world):
    def fails(match, *words, paper="visualthinker"):
        with pytest.raises(UserError, match=match):
            report(paper, *words, out=world / "page.html")

    fails(
        "--paper bert: expected one of visualthinker, vlaa, mossbench", world / "mine", paper="bert"
    )
    fails("none is no directory; expected DIR or NAME=DIR", world / "none")
    (world / "empty").mkdir()
    fails("empty holds neither a run", world / "empty")
    fails("two runs of one name", world / "mine", f"mine={world / 'visualthinker'}")
    fails(
        "by protocol visualthinker-base twice",
        f"a={world / 'base'}",
        f"a={world / 'visualthinker'}",
    )
    results(world / "again", "cv_bench", {"accuracy": 0.1}, protocol="q")
    both = [f"Qwen2-VL-2B={world / name}" for name in ("base", "again")]
    fails(r"cv_bench by several protocols \(q, visualthinker-base\)", *both)
    (world / "base/cv_bench/results.json").unlink()
    said, *_ = report("visualthinker", world / "base", out=world / "page.html")
    assert "is not scored yet: jaxvl eval score" in said


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_has_names_and_every_recipe_is_there(name):
    paper = PAPERS[name]
    for one in paper.tables:
        assert len(one.names) == len(one.asked) == len(one.published[2]) and len(one.cells) == len(
            one.published[1]
        )
    lines = [line for figure in paper.figures for line in figure.lines]
    assert {name for line in lines for name in line.names} <= set(paper.names)
    made = [of for of in map(recipe, paper.names) if of.startswith("configs")]
    assert all((ROOT / file).is_file() for file in made)
    if name != "mossbench":
        assert made and not [of for of in paper.names if "=" in of]


def test_the_page_in_a_browser(world):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium is installed")
    words = [world / name for name in ("visualthinker", "visualthinker_sft", "mine")]
    _, _, charts = report("visualthinker", *words, out=world / "page.html")
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=args)
        page, wrong = browser.new_page(), []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto((world / "page.html").as_uri())
        for theme in ("light", "dark"):
            page.select_option("#theme", theme)
            for figure in page.locator("figure").all():
                figure.scroll_into_view_if_needed()
                figure.locator("canvas").wait_for()
        page.evaluate("zoomTo({ min: 1, max: 1.5 })")  # one of the charts has a single step
        page.click("#unzoom")
        assert page.evaluate("curves.range") is None
        assert page.locator("figure").count() == len(charts)
        first = page.locator("figure").first
        assert first.locator("figcaption").inner_text() == charts[0]["title"]
        legend = first.locator(".legend button").all_inner_texts()
        assert "paper: instruct 55.6" in legend
        browser.close()
    assert wrong == []


def test_names_of_rows_are_of_one_paper():
    assert not set(visualthinker.NAMES) & set(vlaa.NAMES) - {"Qwen2-VL-2B"}


def test_every_published_row_has_its_line_on_the_page_of_reproduction():
    text = (ROOT / "docs/reproduction.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for name, (_, _, rows) in published.WHOLE.items():
        for row in rows:
            figures = f"| {' '.join(row[1:])} |"
            assert any(figures in line for line in lines), (name, row[0])
    of_data = [
        " ".join(f"{n:,}" if n else "-" for n in (of.original, of.pipeline, of.sft, of.rl))
        for of in sources.PAPER.values()
    ]
    assert all(any(f"| {figures} |" in line for line in lines) for figures in of_data)
