# SPDX-License-Identifier: Apache-2.0
"""From replies to scores, reports and comparisons, without a model."""

import csv
import dataclasses
import json

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.errors import UserError
from jaxvl.eval import tasks
from jaxvl.eval.benchmark import Grade, Item, Scored
from jaxvl.eval.engines import predictions
from jaxvl.eval.engines.replies import Reply, ReplySampling, pairs
from jaxvl.eval.engines.run import run
from jaxvl.eval.reporting import beside, export, page, published, report, seeds, stats, summary
from jaxvl.eval.reporting.compare import compare, to_markdown
from jaxvl.eval.scoring import behaviour, figures, judged, score
from jaxvl.observe import charts
from jaxvl.rewards.endpoint import Endpoint
from tests.rewards.test_judge import says, serve  # noqa: F401 (a fixture)

FORMS = (
    "<answer>{}</answer>",
    "<think> it is here </think> <answer> {} </answer>",
    "<think>\n</think>\n<answer>\n{}.\n</answer>",
    "<think>left? right? 3?</think><answer>**{}**</answer>",
    "<think> The answer is 7. </think>\n<answer>The answer is {}</answer>",
    "<answer>\\boxed{{{}}}</answer>",
)


class Says:
    """Replies to item number i with `text(i, item, sample)`."""

    def __init__(self, text):
        self.text, self.dropped = text, []

    def replies(self, items, missing):
        places = {item.id: at for at, item in enumerate(tasks.open_task("smoke").items)}
        yield [
            Reply(item, k, text, text, "stop", len(text), 0, "asked")
            for item, k in pairs(items, missing)
            for text in [self.text(places[item.id], item, k)]
        ]


def answered(out, text, n=1, limit=0, system_prompt="", scored=True):
    """A directory of results for the smoke benchmark."""
    how = ReplySampling(n=n, temperature=float(n > 1), max_new_tokens=8)
    task = tasks.open_task("smoke", system_prompt=system_prompt)
    run(task, Says(text), how, out, decides={"model": "m"}, about={}, limit=limit)
    if scored:
        return score.plain(score.score(out / "smoke")[0])


def gold(i, item, k):
    return FORMS[i % len(FORMS)].format(item.gold)


def mostly(i, item, k):
    """Right on all but the third, which has no answer."""
    return "no idea" if i == 2 else gold(i, item, k)


@pytest.mark.parametrize("form", FORMS)
def test_golds_in_every_surface_form_score_all(tmp_path, form):
    found = answered(tmp_path, lambda i, item, k: form.format(item.gold))
    for mode in ("strict", "lenient"):
        assert found["modes"][mode]["accuracy"]["value"] == 1.0
    assert found["format"]["value"] == 1.0 and not found["partial"]


def test_golds_of_others_and_empty_replies_score_nothing(tmp_path):
    found = answered(tmp_path / "empty", lambda i, item, k: "")
    assert found["modes"]["lenient"]["accuracy"]["value"] == 0.0
    assert found["modes"]["lenient"]["unparsed"] == 1.0
    wrong = answered(tmp_path / "none", lambda i, item, k: "<answer>an elephant</answer>")
    assert wrong["modes"]["lenient"]["accuracy"]["value"] == 0.0


def test_scoring_twice_gives_the_same_bytes(tmp_path):
    def files():
        names = (score.SCORES, score.RESULTS)
        return [(tmp_path / "smoke" / name).read_bytes() for name in names]

    answered(tmp_path, mostly, n=2)
    first = files()
    score.score(tmp_path / "smoke")
    assert files() == first and len(first[0].splitlines()) == 16


def test_a_part_is_called_partial_everywhere(tmp_path):
    found = answered(tmp_path, gold, limit=4)
    assert found["partial"] and (found["answered"], found["items"], found["missing"]) == (4, 8, 4)
    loaded = report.load(tmp_path)
    assert "PARTIAL: smoke has 4 of 8 replies" in report.to_markdown(loaded)
    assert "## PARTIAL: Eight" in report.to_markdown(loaded)
    assert ",True,strict,accuracy" in report.to_csv(loaded)
    assert json.loads(report.to_json(loaded))["smoke"]["partial"]
    assert "PARTIAL" in page.render(tmp_path, loaded, {})
    assert compare(tmp_path, tmp_path)[0]["partial"]


def test_scores_are_refused_where_the_files_have_changed(tmp_path, monkeypatch):
    answered(tmp_path, gold)
    known = tasks.known()["smoke"]
    items, _ = known.read("", "plain")
    changed = [dataclasses.replace(items[0], gold="another"), *items[1:]]
    other = dataclasses.replace(known, read=lambda source, protocol: (changed, []))
    monkeypatch.setattr(tasks, "known", lambda: {"smoke": other})
    with pytest.raises(UserError, match=f"1 items differ, first {items[0].id}"):
        score.score(tmp_path / "smoke")
    found, _ = score.score(tmp_path / "smoke", force=True)
    assert found["modes"]["lenient"]["accuracy"].value == 7 / 8


def test_a_comparison_counts_flips_and_refuses_other_questions(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    answered(a, lambda i, item, k: gold(i, item, k) if i < 4 else "")
    answered(b, lambda i, item, k: gold(i, item, k) if i > 2 else "")
    answered(c, gold, system_prompt="Be brief.")
    (found,) = compare(a, b, "strict")
    ids = [item.id for item in tasks.open_task("smoke").items]
    assert found["wins"] == ids[4:] and found["losses"] == ids[:3] and found["ties"] == 1
    assert found["p"] == stats.mcnemar(4, 3) == found["p, Holm"]
    assert found["difference"]["value"] == pytest.approx(1 / 8)
    assert found["test"] == "McNemar, exact" and not found["problems"]
    assert f"- losses of B: {', '.join(ids[:3])}" in to_markdown([found])
    with pytest.raises(UserError, match="the prompts of 8 items differ"):
        compare(a, c)
    forced = compare(a, c, force=True)
    assert "Compared by force: the prompts of 8" in to_markdown(forced)
    path = a / "smoke" / score.RESULTS
    path.write_text(path.read_text().replace('"verifier": "', '"verifier": "0'))
    with pytest.raises(UserError, match="version of the rules"):
        compare(a, b)
    with pytest.raises(UserError, match="not scored as 'loose'"):
        compare(a, b, "loose")


def test_a_comparison_knows_kin_and_says_what_else_differs(tmp_path, monkeypatch):
    known = tasks.known()["smoke"]
    items, _ = known.read("", "plain")
    clustered = [dataclasses.replace(item, cluster=str(i // 2)) for i, item in enumerate(items)]
    other = dataclasses.replace(
        known, read=lambda source, protocol: (clustered, []), none_is_wrong=False
    )
    monkeypatch.setattr(tasks, "known", lambda: {"smoke": other})
    a, b = tmp_path / "a", tmp_path / "b"
    answered(a, lambda i, item, k: gold(i, item, k) if i < 2 else "")
    answered(b, lambda i, item, k: gold(i, item, k) if i > 3 else "")
    settings = b / "smoke/settings.json"
    settings.write_text(settings.read_text().replace('"seed": 0', '"seed": 7'))
    replies = b / "smoke/predictions.jsonl"
    digest = predictions.digest_of(json.loads(settings.read_text()))
    lines = [json.loads(line) | {"settings": digest} for line in replies.read_text().splitlines()]
    replies.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score.score(b / "smoke")
    (found,) = compare(a, b)
    error = stats.standard_error([-1, -1, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3])
    assert found["p, clusters"] == stats.of_mean(0.25, error, 4) == found["p, Holm"] != found["p"]
    assert found["settings"] == {"seed": [0, 7]}
    assert "Not the same in both: seed, 0 in A and 7 in B." in to_markdown([found])
    scores = b / "smoke/scores.jsonl"
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    rows[7]["lenient"]["value"] = None  # here nobody could judge, and that is not wrong
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = compare(a, b)
    assert found["items"] == 7 and found["only"] == [[items[7].id], []]
    with pytest.raises(UserError, match="1 items have a mark in only one of"):
        seeds.spread([a, b])


def test_runs_that_differ_by_their_seed_are_put_together(tmp_path):
    runs = [tmp_path / name for name in "abc"]
    for right, run_dir in zip((2, 4, 5), runs, strict=True):
        answered(run_dir, lambda i, item, k, right=right: gold(i, item, k) if i < right else "")
    (found,) = seeds.spread(runs)
    of = found["metrics"]["accuracy"]
    assert of["values"] == [2 / 8, 4 / 8, 5 / 8] and of["mean"] == pytest.approx(11 / 24)
    # squares of 5, 1 and 4 24ths: 42 / 24^2, over 2
    assert of["deviation"] == pytest.approx((21 / 24**2) ** 0.5)
    assert (of["lowest"], of["highest"]) == (2 / 8, 5 / 8)
    said = CliRunner().invoke(
        app, ["eval", "seeds", *map(str, runs), "--out", str(tmp_path / "s.md")]
    )
    assert said.exit_code == 0 and "25.0 50.0 62.5" in said.output
    assert "| smoke | accuracy | 45.8 | 19.1 | 25.0 | 62.5 |" in (tmp_path / "s.md").read_text()
    with pytest.raises(UserError, match="two or more directories"):
        seeds.spread([runs[0], runs[0]])
    answered(tmp_path / "d", gold, system_prompt="Be brief.")
    with pytest.raises(UserError, match="the prompts of 8 items differ"):
        seeds.spread([*runs, tmp_path / "d"])


def test_several_samples_are_compared_by_their_means(tmp_path):
    answered(tmp_path / "a", lambda i, item, k: gold(i, item, k) if k == 0 else "", n=2)
    answered(tmp_path / "b", gold, n=2)
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert found["test"] == "Wilcoxon, Pratt" and found["p"] == stats.wilcoxon([0.5] * 8)
    sampled = report.load(tmp_path / "a")[0]["modes"]["strict"]["sampled"]
    assert sampled["pass"]["1"]["value"] == 0.5 and sampled["pass"]["2"]["value"] == 1.0
    assert sampled["majority"]["2"]["value"] == 1.0 and sampled["avg"]["value"] == 0.5


def test_figures_by_group_and_baselines(tmp_path):
    found = answered(tmp_path, mostly)
    strict = found["modes"]["strict"]
    wrong = tasks.open_task("smoke").items[2].groups["task"]
    assert strict["groups"]["task"][wrong]["value"] == 0.5
    assert strict["metrics"]["accuracy"] == strict["accuracy"]
    assert strict["accuracy"]["value"] == 7 / 8 and strict["unparsed"] == 1 / 8
    assert (strict["accuracy"]["low"], strict["accuracy"]["high"]) == stats.wilson(7 / 8, 8)
    items = tasks.open_task("smoke").items
    assert found["chance"] == pytest.approx(sum(1 / len(item.choices) for item in items) / 8)
    letters = ["ABCD"[item.choices.index(item.gold)] for item in items]
    assert found["majority"]["value"] == max(map(letters.count, letters)) / 8
    assert sum(of["right"] for of in found["letters"].values()) == 8
    assert sum(of["said"] for of in found["letters"].values()) == 7


def marked(values, group="x", cluster=None):
    items = [Item(str(i), "?", (), "A", cluster=cluster or "") for i in range(len(values))]
    return [
        Scored(dataclasses.replace(item, groups={"g": group}), 0, Grade(value, "", str(value)))
        for item, value in zip(items, values, strict=True)
    ]


def estimate(metric, rows):
    """A metric with its interval, as a report has it."""
    it = dataclasses.replace(tasks.find("smoke"), metrics={"it": metric})
    return summary._metrics(it, rows)["it"]


def test_a_metric_that_cannot_be_had_has_no_value():
    def refuses(scored):
        raise UserError("rows are missing")

    rows = marked([1.0, 0.0, None])
    assert estimate(refuses, rows).value is None
    assert estimate(lambda scored: None, rows).value is None
    # The mean of the known marks is a proportion of two, of all marks one of three.
    known = estimate(lambda scored: 0.5, rows)
    assert (known.low, known.high) == stats.wilson(0.5, 2)
    single = estimate(lambda scored: 0.7, marked([1.0, 0.0], cluster="clustered"))
    assert single.value == 0.7 and score.plain(single)["low"] is None


def test_shares_have_wilsons_interval_whatever_they_are_shares_of():
    def worst(scored):
        names = {one.item.cluster for one in scored}
        missed = {one.item.cluster for one in scored if one.mark.value != 1}
        return 1 - len(missed) / len(names)

    def among_y(scored):
        return figures.among("g", "y")(scored)

    def variants(right):
        return [
            dataclasses.replace(one, item=dataclasses.replace(one.item, cluster=str(at // 2)))
            for at, one in enumerate(marked([1.0] * 2 * right + [1.0, 0.0] * (50 - right)))
        ]

    for right in (0, 5, 50):
        found = estimate(worst, variants(right))
        assert found.value == pytest.approx(right / 50)
        assert (found.low, found.high) == pytest.approx(stats.wilson(right / 50, 50))
    rows = marked([1.0, 0.0] * 20) + [
        dataclasses.replace(one, item=dataclasses.replace(one.item, id=f"y{at}"))
        for at, one in enumerate(marked([0.0] * 10, group="y"))
    ]
    found = estimate(among_y, rows)
    assert (found.low, found.high) == pytest.approx(stats.wilson(0.0, 10))


def test_length_repetition_and_words():
    texts = ["Wait, against", "possibly aha", "checkered", "so be it " * 30, "   " * 90]
    found = behaviour.words(texts)
    assert found["VLAA-Thinking"]["anywhere"] == 2 / 5
    assert found["VLAA-Thinking"]["whole"] == 1 / 5  # neither "against" nor "checkered"
    assert found["VisualThinker"]["anywhere"] == 3 / 5
    assert found["VisualThinker"]["whole"] == 2 / 5
    assert behaviour.repetitive(texts) == 1 / 5
    lines = [
        {"tokens": count, "thinking": 1, "finish_reason": "length" if count == 9 else "stop"}
        for count in (5, 5, 7, 9)
    ]
    rows = marked([1.0, 0.0, 1.0]) + marked([1.0], group="y")
    lengths = behaviour.lengths(rows, lines)
    assert lengths["right"]["mean"] == 7 and lengths["wrong"]["count"] == 1
    assert lengths["right"]["cut"] == 1 / 3 and lengths["all"]["cut"] == 1 / 4
    assert (lengths["thinking"]["mean"], lengths["answer"]["mean"]) == (1, 5.5)
    of_group = lengths["groups"]["g"]
    assert {name: (of["count"], of["mean"], of["cut"]) for name, of in of_group.items()} == {
        "x": (3, 17 / 3, 0.0),
        "y": (1, 9.0, 1.0),
    }
    assert [(of["from"], of["count"]) for of in lengths["tenths"]] == [(5, 2), (7, 1), (9, 1)]
    assert behaviour.lengths(marked([1.0]), [{"tokens": None, "thinking": None}]) == {}


def test_a_judge_stands_beside_the_rules(tmp_path, serve):  # noqa: F811
    answered(tmp_path, mostly)
    before = (tmp_path / "smoke" / score.SCORES).read_bytes()
    server = serve(lambda body, n: (200, {}, says("Yes" if n != 3 else "perhaps")))
    assert judged.ask(tmp_path / "smoke", Endpoint(server.url, concurrency=1), "judge") == 8
    found = score.plain(score.score(tmp_path / "smoke")[0])
    assert found["judge"]["judge"]["replies"] == 7 and found["judge"]["judge"]["missing"] == 1
    assert found["judge"]["judge"]["accuracy"]["value"] == 1.0
    assert found["modes"]["lenient"]["accuracy"]["value"] == 7 / 8
    assert (tmp_path / "smoke" / score.SCORES).read_bytes() == before
    assert judged.ask(tmp_path / "smoke", Endpoint(server.url), "judge") == 1  # the unclear one
    assert found["judge"]["judge"]["metrics"]["accuracy"]["value"] == 1.0
    by_rule, by_judge = found["modes"]["lenient"]["groups"], found["judge"]["judge"]["groups"]
    assert by_rule.keys() == by_judge.keys() and by_judge
    shown = report.to_markdown(report.load(tmp_path))
    assert "Judged, beside the rules" in shown and "By judges, by" in shown


def test_files_of_other_kits_go_out_and_come_back(tmp_path):
    answered(tmp_path, mostly)
    (tsv,) = export.export(tmp_path, "vlmevalkit", tmp_path / "out")
    with tsv.open(newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    assert head[:3] == ["index", "question", "A"] and len(rows) == 8
    assert rows[1][head.index("prediction")] == mostly(1, tasks.open_task("smoke").items[1], 0)
    (lines,) = export.export(tmp_path, "lmms", tmp_path / "out")
    first = json.loads(lines.read_text().splitlines()[0])
    assert first["target"] == tasks.open_task("smoke").items[0].gold and len(first["resps"]) == 1
    verdicts = tmp_path / "judged.csv"
    hits = "".join(f"{row[0]},{i % 2}\n" for i, row in enumerate(rows))
    verdicts.write_text("index,hit\n" + hits)
    assert judged.take(tmp_path / "smoke", verdicts) == 8
    found = score.plain(score.score(tmp_path / "smoke")[0])
    assert found["judge"]["judged.csv"]["accuracy"]["value"] == 0.5
    verdicts.write_text("index,hit\nnowhere,1\n")
    with pytest.raises(UserError, match="there is no reply \\(nowhere, sample 0\\)"):
        judged.take(tmp_path / "smoke", verdicts)


def test_verdicts_may_be_nested(tmp_path):
    answered(tmp_path, mostly)
    ids = [item.id for item in tasks.open_task("smoke").items]
    kits = [{"doc_id": i, "doc": {"id": id}, "judged": {"score": 1}} for i, id in enumerate(ids)]
    forms = {
        "list.json": {"model": "m", "results": [{"id": id, "hit": 1} for id in ids]},
        "by_id.json": {"results": {id: {"value": "yes"} for id in ids}},
        "values.json": {"results": dict.fromkeys(ids, True)},
        "kit.json": kits,
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(json.dumps(content))
        assert judged.take(tmp_path / "smoke", tmp_path / name) == 8
    found = score.plain(score.score(tmp_path / "smoke")[0])["judge"]
    assert {name: found[name]["accuracy"]["value"] for name in forms} == dict.fromkeys(forms, 1.0)
    bad = {"results": [{"hit": 1}, {"id": ids[0], "sample": "x", "hit": 1}, 3]}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    with pytest.raises(UserError, match="1 no id.*1 no sample.*1 no object"):
        judged.take(tmp_path / "smoke", tmp_path / "bad.json")
    with pytest.raises(UserError, match="no such file"):
        judged.take(tmp_path / "smoke", tmp_path / "none.json")


def test_what_a_model_says_cannot_reach_the_page(tmp_path):
    answered(tmp_path, lambda i, item, k: "<script>alert(1)</script>\ud800 | & \n")
    rendered = page.render(tmp_path, report.load(tmp_path), {}, items=3)
    assert "<script" not in rendered and "&lt;script&gt;" in rendered
    assert rendered.count('class="card item unread"') == 3


def test_reports_have_lengths_by_group(tmp_path):
    answered(tmp_path, mostly)
    shown = report.to_markdown(report.load(tmp_path))
    assert (
        "### Length in tokens by task\n\n| task | number | mean | median | p95 | truncated |"
        in shown
    )
    group = tasks.open_task("smoke").items[0].groups["task"]
    rows = list(csv.DictReader(report.to_csv(report.load(tmp_path, "task")).splitlines()))
    (row,) = [row for row in rows if (row["figure"], row["group"]) == ("tokens by task", group)]
    lines, _ = predictions.read(tmp_path / "smoke")
    items = [i for i in tasks.open_task("smoke").items if i.groups["task"] == group]
    mean = sum(lines[item.id, 0]["tokens"] for item in items) / len(items)
    assert float(row["value"]) == pytest.approx(mean) and row["count"] == str(len(items))


def test_published_figures_are_marked_as_theirs(tmp_path, monkeypatch):
    answered(tmp_path, gold)
    table = ("a paper", ("testmini",), (("Qwen2-VL-2B", "48.0"),))
    monkeypatch.setitem(published.TABLES, "smoke", (table,))
    text = report.to_markdown(report.load(tmp_path), paper=True)
    assert "### Published, not ours: a paper" in text
    assert "| ours, lenient | 100.0 |\n| Qwen2-VL-2B | 48.0 |" in text
    assert "Published" not in report.to_markdown(report.load(tmp_path))
    monkeypatch.delitem(published.TABLES, "smoke")
    said = "smoke: no published figure is known of what protocol plain asks"
    assert said in report.to_markdown(report.load(tmp_path), paper=True)


def test_published_tables_are_whole_and_add_up():
    """A figure in every cell; averages are the means of what stands before them, as printed; and
    every column is held against a figure or group that our benchmark has."""
    off = {}
    for name, (_, columns, rows) in published.WHOLE.items():
        assert all(len(row) == len(columns) + 1 for row in rows), name
        for row in rows if len(columns) > 2 and columns[-1] in ("average", "refusal rate") else ():
            mean = sum(map(float, row[1:-1])) / (len(row) - 2)
            if abs(float(row[-1]) - mean) > 0.06:  # printed to a tenth
                off[name, row[0]] = pytest.approx(mean, abs=0.005)
    assert off == published.CONTRADICTED
    groups = {"Count", "Relation", "Depth", "Distance", "Relative_Depth", "Spatial_Relation"}
    groups |= set(published.MOSSBENCH_MODELS[1])
    for task, found in published.TABLES.items():
        for _, columns, _ in found:
            own = set(published.figures(columns)) - groups
            assert own <= set(tasks.find(task).metrics), task


def test_an_average_over_the_papers_six_benchmarks(monkeypatch):
    found = [
        {
            "task": task,
            "partial": False,
            "modes": {
                mode: {
                    "metrics": {published.figures([column])[0]: {"value": 0.1 * place}},
                    "groups": {},
                }
                for mode in ("strict", "lenient")
            },
        }
        for place, (task, column) in enumerate(published.SIX.values(), 1)
    ]
    assert list(beside.over_six(found[:5])) == []
    shown = list(beside.over_six(found))
    assert [table["rows"][0] for table in shown] == [
        ["ours, strict", "10.0", "20.0", "30.0", "40.0", "50.0", "60.0", "35.0"]
    ] * 3
    assert ["Qwen2.5-VL-3B", "61.2", "21.9", "31.2", "13.2", "22.9", "40.3", "31.8"] in shown[1][
        "rows"
    ]
    found[2]["partial"] = True
    assert next(beside.over_six(found))["rows"][1][0] == "PARTIAL ours, lenient"


def test_mistakes_are_messages(tmp_path):
    def fails(*args, match):
        with pytest.raises(UserError, match=match):
            CliRunner().invoke(app, ["eval", *map(str, args)], catch_exceptions=False)

    fails("score", tmp_path, match="holds no replies")
    model = ("run", "--model=x", "--out", tmp_path)
    fails(*model, "--tasks=smok", match="did you mean `smoke`")
    fails(*model, "--tasks=smoke", "--n=2", match="at temperature 0")
    fails(*model, "--tasks=smoke", "--protocol=kit", match="no protocol `kit`")
    fails(*model, "--tasks=,", match="names no benchmark; `jaxvl eval list`")
    fails(*model, "--tasks=cv_bench", match="give --source cv_bench=PATH")
    fails(*model, "--tasks=smoke", "--replies", tmp_path / "no.csv", match="no such file")
    answered(tmp_path, gold, scored=False)
    fails("report", tmp_path, match="not scored yet")
    fails("score", tmp_path / "smoke", match="the folder of one benchmark; give")
    score.score(tmp_path / "smoke")
    fails("report", tmp_path, "--by=colour", match="expected one of \\['task'\\]")
    fails("report", tmp_path, "--format=pdf", match="expected md, json, csv, html")
    fails("report", tmp_path, "--export=xls", match="vlmevalkit, lmms, mossbench")
    fails("score", tmp_path, "--judge-url=http://x", match="both --judge-url and --judge-model")
    fails("score", tmp_path, "--judged=vsr=x.csv", match="--judged 'vsr=x.csv': expected NAME=PATH")
    fails("seeds", tmp_path, match="two or more directories of results")
    fails("compare", tmp_path, tmp_path, "--out", "/proc/x.md", match="cannot be written")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("predictions.jsonl", "hello\n", "line 1: not a reply, broken JSON; take the line out"),
        ("predictions.jsonl", "[]\n", "line 1: not a reply, expected an object"),
        ("predictions.jsonl", '{"id": "a", "sample": 0}\n', "not a reply, text, row, .* missing"),
        ("predictions.jsonl", "", "smoke holds no reply; `jaxvl eval run` writes them"),
        ("settings.json", "{}", "has no decides, .*: it is not as `jaxvl eval run` wrote it"),
        ("settings.json", "[]", "not a folder of replies"),
        ("judged.jsonl", "x\n", "judged.jsonl, line 1: broken JSON; take the line out"),
        ("results.json", "{", "results.json: broken JSON .* writes it anew"),
        ("scores.jsonl", "x", "scores.jsonl, line 1: broken JSON; .* writes it anew"),
    ],
)
def test_files_that_were_edited_are_messages(tmp_path, name, text, match):
    answered(tmp_path, gold)
    (tmp_path / "smoke" / name).write_text(text)
    with pytest.raises(UserError, match=match):
        if name in ("results.json", "scores.jsonl"):
            compare(tmp_path, tmp_path)
        else:
            score.score(tmp_path / "smoke")


def test_charts_and_intervals_end_where_shares_do(tmp_path):
    answered(tmp_path, lambda i, item, k: "<answer>A</answer>" if i == 0 else "")
    (found,) = report.load(tmp_path)
    assert max(of["right"] for of in found["letters"].values()) > 2
    drawn = {chart.title: chart for chart in page._charts(found)}
    marks = [bar.mark for bar in drawn["Letters said; the mark is how often it is right"].bars]
    assert all(mark <= charts.WIDTH for mark in marks)
    rows = marked([1.0] + [0.0] * 9) + [
        dataclasses.replace(one, item=dataclasses.replace(one.item, id=f"y{at}"))
        for at, one in enumerate(marked([0.0] * 30, group="y"))
    ]
    low = estimate(figures.macro("g"), rows)
    assert low.value == 1 / 20 and low.low == 0.0 and low.high > 1 / 20


def test_a_judge_that_cannot_be_reached_is_a_message(tmp_path, serve):  # noqa: F811
    answered(tmp_path, mostly)
    server = serve(lambda body, n: (500, {}, {}))
    with pytest.raises(UserError, match="asked about 8 replies and gave no verdict on any"):
        judged.ask(tmp_path / "smoke", Endpoint(server.url, retries=0), "judge")
