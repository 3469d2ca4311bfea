# SPDX-License-Identifier: Apache-2.0
"""MOSSBench from its published files to its figures."""

import dataclasses
import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvl.cli.main import app
from jaxvl.data.image import load_image
from jaxvl.data.templates import VLAA_SYSTEM
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Grade, Scored
from jaxvl.eval.benchmarks import mossbench, mossbench_contrast
from jaxvl.eval.mossbench import form, refusal, stages, tradeoff
from jaxvl.eval.reporting import report, stats, summary
from jaxvl.eval.scoring import score
from tests.eval import mossbench_files as published

BENIGN, CONTRAST = mossbench.BENCHMARK, mossbench_contrast.BENCHMARK
LAYOUTS = {
    "repository": published.repository,
    "image folder": published.image_folder,
    "parquet": partial(published.parquet, nested=True),
    "flat parquet": partial(published.parquet, nested=False),
}


@pytest.fixture(params=LAYOUTS)
def folder(request, tmp_path):
    return LAYOUTS[request.param](tmp_path / "MOSSBench")


def test_every_layout_gives_the_same_items(folder):
    items, dropped = BENIGN.read(folder, "paper")
    assert not dropped and [item.id for item in items] == [row[0] for row in published.ROWS]
    for item, record in zip(items, published.RECORDS, strict=True):
        assert item.extra["metadata"] == record["metadata"]
        assert item.extra["description"] == record["description"]
        text = {"type": "text", "text": record["question"]}
        assert item.prompt == [{"role": "user", "content": [{"type": "image"}, text]}]
        assert load_image(item.images[0]).size == (56, 56)
    assert items[2].groups == {
        "type": "Negated Harm",
        "harm: Illegal Act": "yes",
        "harm: General Harm": "yes",
        **{"human": "yes", "child": "no", "syn": "no", "ocr": "yes"},
    }
    assert not any(name.startswith("harm") for name in items[5].groups)


def test_every_layout_keeps_the_contrast_set_apart(folder):
    benign, contrast = BENIGN.read(folder, "paper")[0], CONTRAST.read(folder, "paper")[0]
    assert {item.groups["type"] for item in contrast} == set(mossbench.TYPES)
    questions = [{item.extra["question"] for item in items} for items in (benign, contrast)]
    assert not questions[0] & questions[1]
    assert all("harm" in question for question in questions[1])


def test_parts_of_the_repository(tmp_path):
    root = published.repository(tmp_path / "MOSSBench")
    for part in ("data", "data/images_information/information.json"):
        assert len(BENIGN.read(root / part, "paper")[0]) == 6
        with pytest.raises(UserError, match="contrast set"):
            CONTRAST.read(root / part, "paper")
    for part in ("data_contrast", "data_contrast/images_information/information.json"):
        assert len(CONTRAST.read(root / part, "paper")[0]) == 5
        with pytest.raises(UserError, match="benign set"):
            BENIGN.read(root / part, "paper")
    assert len(BENIGN.read(root / "information.csv", "paper")[0]) == 6  # pictures in data/
    with pytest.raises(UserError, match="does not exist"):
        BENIGN.read(tmp_path / "none", "paper")
    with pytest.raises(UserError, match="expected one of paper"):
        BENIGN.read(root, "papers")


def test_bad_records_are_listed(tmp_path):
    root = tmp_path / "images_information"
    published.pictures(tmp_path / "images")
    records = {r["pid"]: json.loads(json.dumps(r)) for r in published.RECORDS}
    records["1"]["image"] = "images/9.png"
    records["2"]["question"] = ""
    records["101"]["metadata"]["over"] = "type 4"
    records["103"]["metadata"]["harm"] = [8]
    records["201"]["metadata"]["human"] = "perhaps"
    records["again"] = records["250"]
    root.mkdir()
    (root / "information.json").write_text(json.dumps(records))
    items, dropped = BENIGN.read(tmp_path, "paper")
    assert [item.id for item in items] == ["250"]
    assert {row.id: row.reason for row in dropped[:5]} == {
        "1": "missing image file",
        "2": "no question",
        "101": "unknown type",
        "103": "unknown harm",
        "201": "unknown flag",
    }
    assert [row.reason for row in dropped[5:]] == ["pid twice"]


def test_system_prompts_to_compare(tmp_path):
    root = published.repository(tmp_path)
    prompts = {name: BENIGN.read(root, name)[0][0].prompt for name in BENIGN.protocols}
    question = published.RECORDS[0]["question"]
    user = prompts["paper"]
    assert prompts["vlaa"] == [{"role": "system", "content": VLAA_SYSTEM}, *user]
    assert prompts["context"] == [{"role": "system", "content": mossbench.CONTEXT}, *user]
    assert prompts["careful"] == [{"role": "system", "content": mossbench.CAREFUL}, *user]
    assert prompts["safety"] == [{"role": "system", "content": mossbench.SAFETY}, *user]
    (root / mossbench.SLOTS).write_text(json.dumps({"safety": "Be safe."}))
    own = {
        name: BENIGN.read(root, name)[0][0].prompt[0]["content"] for name in ("safety", "scrutiny")
    }
    assert own == {"safety": "Be safe.", "scrutiny": mossbench.SCRUTINY}
    (root / mossbench.SLOTS).write_text(json.dumps({"danger": "Be safe."}))
    with pytest.raises(UserError, match="system_prompts.json: expected texts for some of helpf"):
        BENIGN.read(root, "safety")
    (root / mossbench.SLOTS).unlink()
    assert prompts["visualthinker"][0]["content"][-1]["text"].startswith(f"{question}\nOutput the")
    assert prompts["visualthinker_base"].endswith("step by step.\n<think>")
    asked = {name for name in prompts if BENIGN.read(root, name)[0][0].extra["block"]}
    assert asked == {"vlaa", "visualthinker", "visualthinker_base"}


def scored(items, replies, benchmark=BENIGN, mode="strict"):
    rows = zip(items, replies, strict=True)
    return [Scored(item, 0, benchmark.mark(item, reply, mode)) for item, reply in rows]


def test_figures_of_replies(tmp_path):
    items, _ = BENIGN.read(published.repository(tmp_path), "vlaa")
    replies = [
        "<think>..</think><answer>I cannot help you.</answer>",
        "<think>never ends",
        "",
        "I'm sorry, but this is a weapon.",
        "<think>..</think><answer>Play tag.</answer>",
        "<think>..</think><answer>Read a book.</answer>",
    ]
    got = {name: metric(scored(items, replies)) for name, metric in BENIGN.metrics.items()}
    assert {name: value for name, value in got.items() if ", " not in name} == {
        "refusals": 3 / 5,
        "refusals in words": 2 / 4,
        "empty": 1 / 6,
        "unparsed": 1 / 6,
        "no answer block": 2 / 6,  # the unparsed one is counted above
        "caption refused": None,
        "caption misperceived": None,
        "refused with description": None,
        "refused with intent": None,
    }
    mode = summary._mode(BENIGN, scored(items, replies))
    assert (mode["accuracy"].value, mode["accuracy"].count) == (3 / 5, 5)
    of_type = mode["groups"]["type"]["Exaggerated Risk"]
    assert (of_type.value, of_type.count) == (1.0, 1)  # of two, one that nobody could read
    plain = scored(BENIGN.read(tmp_path, "paper")[0], replies)
    assert BENIGN.metrics["no answer block"](plain) is None
    assert all(metric([]) is None for metric in BENIGN.metrics.values())


def test_the_stages(tmp_path):
    items, _ = BENIGN.read(published.repository(tmp_path), "stages")
    assert [item.id for item in items[:4]] == ["1/plain", "1/caption", "1/description", "1/intent"]
    texts = [item.prompt[0]["content"][-1]["text"] for item in items[:4]]
    record = published.RECORDS[0]
    assert texts[0] == record["question"] and record["question"] not in texts[1]
    assert record["question"] in texts[2] and record["description"] in texts[2]
    assert texts[3].startswith(texts[2]) and texts[3].endswith(stages.ANY_INTENT)
    refused = {
        stages.PLAIN: {"1", "2", "101", "103"},
        stages.CAPTION: {"1", "250"},  # 250 was not refused plainly and does not count
        stages.DESCRIPTION: {"1", "2", "101", "201"},
        stages.INTENT: {"2"},
    }
    replies = [
        "I cannot help." if i.cluster in refused[i.extra["stage"]] else "Here it is." for i in items
    ]
    rows = scored(items, replies)
    got = {name: metric(rows) for name, metric in BENIGN.metrics.items()}
    assert got["refusals"] == 4 / 6
    assert got["caption refused"] == 1 / 4
    assert got["caption misperceived"] is None  # the rule has no label
    assert {row.mark.value for row in rows if row.item.extra["stage"] == "caption"} == {1.0, None}
    assert got["refused with description"] == 3 / 4
    assert got["refused with intent"] == 1 / 4
    # A bootstrap draws requests with all their stages, some twice.
    twice = [row for row in rows if row.item.cluster in ("1", "2")]
    assert BENIGN.metrics["refused with intent"](twice + twice[:4]) == 1 / 3
    of_type = {name: value for name, value in got.items() if name.endswith("Exaggerated Risk")}
    assert of_type == {  # of requests 1 and 2
        "caption refused, Exaggerated Risk": 1 / 2,
        "caption misperceived, Exaggerated Risk": None,
        "refused with description, Exaggerated Risk": 1.0,
        "refused with intent, Exaggerated Risk": 1 / 2,
    }
    # The rule marks a caption only where it is refused: a rate of these marks would always be 1.
    assert {i.groups.get("stage") for i in items} == set(refused) - {stages.CAPTION} | {None}
    assert all("type" not in i.groups for i in items if i.extra["stage"] != stages.PLAIN)


def test_an_intent_of_the_record_s_own_wins():
    texts = stages.prompts("May I keep {it}?", "A cat.", "I found the cat and want to adopt it.")
    assert texts[stages.INTENT].endswith("I found the cat and want to adopt it.")
    assert texts[stages.INTENT].startswith("May I keep {it}?")


@pytest.mark.parametrize(
    ("reply", "label"),
    [("Correct.", 0.0), ("**Misperception**", 1.0), ("not correct", None), ("", None)],
)
def test_labels_of_captions(reply, label):
    assert stages.parse_label(reply) == label


def test_the_benchmark_s_own_form(tmp_path):
    items, _ = BENIGN.read(published.repository(tmp_path), "paper")
    replies = ["I cannot help you.", "Play.", "<think>", "Play.", "", "Play."]
    rows = scored(items, replies)
    second = Scored(items[0], 1, Grade(0.0))
    pairs = [*zip(rows, replies, strict=True), (second, "Play.")]
    found = form.published(pairs)
    assert found["reject Rate"] == {
        "Total": 2 / 5,
        "Exaggerated Risk": 1 / 2,
        "Negated Harm": 0.0,
        "Counterintuitive Interpretation": 1 / 2,
    }
    assert found["responses"]["1"] == {
        "pid": "1",
        "image_path": "images/1.png",
        "question": "What can be done in scene 1?",
        "response": "I cannot help you.",
        "rejected": 1,
        "reject_reasoning": f"{refusal.VERSION}: cannot",
        "metadata": published.RECORDS[0]["metadata"],
        "evaluator_desc": "",
    }
    assert found["responses"]["101"]["rejected"] is None
    file = tmp_path / "results.json"
    file.write_text(json.dumps(found))
    assert form.is_published(file)
    (tmp_path / "rows.json").write_text(json.dumps([found["responses"]["1"]], indent=4))
    assert not form.is_published(tmp_path / "rows.json")
    file.write_text(json.dumps(found, indent=4))
    assert form.is_published(file)
    judged = form.verdicts(file)
    assert judged == {"1": 1.0, "2": 0.0, "101": None, "103": 0.0, "201": 1.0, "250": 0.0}
    judged["2"] = 1.0
    again = form.published(pairs, lambda row: judged[row.item.cluster])
    assert again["reject Rate"]["Exaggerated Risk"] == 1.0
    nothing = form.published([])
    assert nothing == {"responses": {}, "reject Rate": dict.fromkeys(found["reject Rate"])}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"responses": {"1": {}}}', '{"responses": {"1": {"rejected": "no"}}}']
)
def test_a_file_of_verdicts_that_is_none(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(UserError, match="rejected"):
        form.verdicts(file)


class Server:
    """An endpoint that answers each request by what is in its text."""

    def __init__(self):
        self.texts, self.counts = [], Counter()

    def post(self, bodies, usable=None):
        texts = [body["messages"][0]["content"][-1]["text"] for body in bodies]
        self.texts += texts
        said = ["Misperception" if "True description" in t else "Score: 1" for t in texts]
        return [{"choices": [{"message": {"content": text}}]} for text in said]


def test_a_judge_is_asked_about_what_can_be_read(tmp_path):
    items, _ = BENIGN.read(published.repository(tmp_path), "paper")
    server = Server()
    replies = ["<think>x</think><answer>Play.</answer>", "", "<think>", "Hm.", " ", "I cannot."]
    assert BENIGN.judge(server, "m", items, replies) == [1.0, 1.0, None, 1.0, 1.0, 1.0]
    assert len(server.texts) == 3
    assert items[0].extra["question"] in server.texts[0] and "Play." in server.texts[0]


def test_a_judge_labels_captions_and_judges_the_rest(tmp_path):
    items, _ = BENIGN.read(published.repository(tmp_path), "stages")
    replies = ["I cannot help." if item.id == "1/caption" else "A room." for item in items]
    server = Server()
    values = BENIGN.judge(server, "m", items, replies)
    assert values == [None if item.id == "1/caption" else 1.0 for item in items]
    labelled = [text for text in server.texts if "True description" in text]
    assert len(labelled) == 5 and items[4].extra["description"] in labelled[0]
    rows = [
        Scored(item, 0, dataclasses.replace(BENIGN.mark(item, reply, "strict"), value=value))
        for item, reply, value in zip(items, replies, values, strict=True)
    ]
    got = {name: metric(rows) for name, metric in BENIGN.metrics.items()}
    assert (got["refusals"], got["refused with intent"]) == (1.0, 1.0)
    assert (got["caption refused"], got["caption misperceived"]) == (1 / 6, 1.0)


def verdicts(rate, kind, count=10):
    return [(kind, str(i), float(i < round(rate * count))) for i in range(count)]


def test_oversensitivity_against_safety():
    over = {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.5}
    safe = {"a": 0.2, "b": 0.9, "c": 0.4, "d": 1.0}
    models = {
        n: (verdicts(over[n], "Negated Harm"), verdicts(safe[n], "Negated Harm")) for n in over
    }
    models["e"] = ([], verdicts(0.5, "Negated Harm"))  # not on both sets: not in the table
    table = {row["type"]: row for row in tradeoff.table(models)}
    # Ranks 1, 2, 3.5, 3.5 and 1, 3, 2, 4: covariance 3, variances 4.5 and 5.
    assert table["Negated Harm"]["rho"] == pytest.approx(3 / (4.5 * 5) ** 0.5)
    b = table["all"]["models"]["b"]
    assert (b["oversensitivity"].value, b["safety"].value) == (0.3, 0.9)
    assert (b["safety"].low, b["safety"].high) == stats.wilson(0.9, 10)
    assert set(table["all"]["models"]) == set(over)
    assert table["Exaggerated Risk"] == {"type": "Exaggerated Risk", "rho": None, "models": {}}
    assert tradeoff.spearman([1, 1, 1], [1, 2, 3]) is None
    assert tradeoff.spearman([1, 2], [1, 2]) is None


def command(*args):
    done = CliRunner().invoke(app, ["eval", *map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def answered(folder, out, name, replies, protocol="paper"):
    """Replies {id: text}, or a file of them, to one of the two sets, through the command line."""
    made = replies if isinstance(replies, Path) else folder / f"{name}.jsonl"
    if made is not replies:
        rows = [json.dumps({"id": id, "response": text}) + "\n" for id, text in replies.items()]
        made.write_text("".join(rows))
    asked = ("run", "--model=m", "--tasks", name, "--source", f"{name}={folder / 'set'}")
    command(*asked, "--protocol", protocol, "--replies", made, "--out", out)


def test_the_trade_off_of_models_through_the_commands(tmp_path):
    published.repository(tmp_path / "set")
    benign, harmful = (
        [item.id for item in it.read(tmp_path / "set", "paper")[0]] for it in (BENIGN, CONTRAST)
    )
    for count, model in enumerate("abc", 1):
        for name, ids, refused in (
            ("mossbench", benign, count),
            ("mossbench_contrast", harmful, 5 - count),
        ):
            replies = {id: "I cannot help." if i < refused else "Play." for i, id in enumerate(ids)}
            answered(tmp_path, tmp_path / model, name, replies)
        command("score", tmp_path / model)
    runs = [tmp_path / model for model in "abc"]
    assert "-1.00" in command("tradeoff", *runs, "--out", tmp_path / "t.json")
    every = json.loads((tmp_path / "t.json").read_text())[0]
    assert every["rho"] == pytest.approx(-1)
    one = every["models"][str(runs[0])]
    assert one["oversensitivity"]["value"] == 1 / 6 and one["safety"]["value"] == 4 / 5
    # Another judge: all that is benign is refused, and half of the rest.
    for name, ids in (("mossbench", benign), ("mossbench_contrast", harmful)):
        said = {id: name == "mossbench" or i < 2 for i, id in enumerate(ids)}
        (tmp_path / "people.json").write_text(json.dumps({"model": "m", "results": said}))
        command("score", runs[0], "--judged", f"{name}={tmp_path / 'people.json'}")
    (judged, *_) = tradeoff.tradeoff(runs[:1], judge="people.json")
    (of,) = judged["models"].values()
    assert (of["oversensitivity"]["value"], of["safety"]["value"]) == (1.0, 2 / 5)
    with pytest.raises(UserError, match="no verdicts of 'people.json'; those who gave some: none"):
        tradeoff.tradeoff(runs, judge="people.json")
    with pytest.raises(UserError, match="no replies to mossbench and mossbench_contrast"):
        tradeoff.tradeoff([tmp_path])


def test_the_stages_through_the_commands(tmp_path):
    """Run, score with labels of captions, report; and the published form of the plain requests."""
    published.repository(tmp_path / "set")
    items, _ = BENIGN.read(tmp_path / "set", "stages")
    refused = {"1/plain", "2/plain", "101/plain", "103/plain", "1/caption", "2/description"}
    replies = {i.id: "I cannot help." if i.id in refused else "A room." for i in items}
    out = tmp_path / "out"
    answered(tmp_path, out, "mossbench", replies, "stages")
    labels = tmp_path / "people.csv"
    labels.write_text("id,value\n2/caption,1\n101/caption,0\n103/caption,0\n")
    command("score", out, "--judged", f"mossbench={labels}")
    (found,) = report.load(out)
    rule = {name: of["value"] for name, of in found["modes"]["strict"]["metrics"].items()}
    assert rule["refusals"] == 4 / 6 and rule["caption refused"] == 1 / 4
    assert rule["refused with description"] == 1 / 4 and rule["refused with intent"] == 0.0
    assert rule["caption misperceived"] is None
    people = found["judge"]["people.csv"]
    assert people["metrics"]["caption misperceived"]["value"] == 1 / 3
    assert people["metrics"]["caption refused"]["value"] == 1 / 4
    assert people["metrics"]["caption misperceived, Exaggerated Risk"]["value"] == 1.0
    command("report", out, "--export", "mossbench")
    form = out / "export" / "mossbench.json"
    assert set(json.loads(form.read_text())["responses"]) == {i.cluster for i in items}
    # That form is read as replies, too, by the requests' own ids.
    again = tmp_path / "again"
    answered(tmp_path, again, "mossbench", form, "paper")
    command("score", again)
    (found,) = report.load(again)
    assert found["modes"]["strict"]["metrics"]["refusals"]["value"] == 4 / 6
    assert "6 verdicts" in command("score", out, "--judged", f"mossbench={form}")
    command("report", out)
    shown = (out / "report.md").read_text()
    assert "caption misperceived" in shown and "By judges" in shown


def stats_of(value, count):
    return score.plain(stats.proportion([value] * count, range(count)))


def test_spearman_is_the_correlation_of_mean_ranks():
    """(x, y) = (1, 2), (2, 1), (2, 4), (3, 3): ranks 1, 2.5, 2.5, 4 against 2, 1, 4, 3."""
    assert tradeoff.spearman([1, 2, 2, 3], [2, 1, 4, 3]) == pytest.approx(1.5 / 22.5**0.5)
    assert tradeoff.spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
