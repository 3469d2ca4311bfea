# SPDX-License-Identifier: Apache-2.0
"""The page of a run is one inert file: everything is in it, nothing untrusted is alive in it."""

import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from jaxvl.errors import UserError
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.observe.report import write_report

EVIL = "</pre><script>alert('x')</script><img src=http://x.test/a onerror=alert(1)>{{ 7*7 }}"


class Tags(HTMLParser):
    """Collects tags and text; an unclosed element shows as a leftover in `open`."""

    VOID = {"meta", "img", "line", "path", "rect", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run_dir(tmp_path):
    run = tmp_path / "toy<run>"
    writer = MetricsWriter(run)
    for step in range(1, 61):
        kl = float("nan") if step == 7 else 0.1
        writer.write(step, {"reward": step / 60, "kl": kl, "rewards/accuracy/mean": 0.5, EVIL: 1.0})
    (run / "config.json").write_text(json.dumps({"model": {"path": EVIL}, "run": {"steps": 99}}))
    table = {"title": EVIL, "columns": [EVIL, "accuracy"], "rows": [[EVIL, 0.75]]}
    (run / "eval.json").write_text(json.dumps({"before": table, "after": table}))
    (run / "rollouts").mkdir()
    (run / "images").mkdir()
    Image.new("RGB", (1600, 900), "red").save(run / "images" / "0.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    for step in (1, 5, 10, 60):
        (run / "rollouts" / f"step_{step}.jsonl").write_text(json.dumps(rollout(step)) + "\n[1\n")
    return run


def rollout(step):
    completion = {"text": EVIL, "tokens": 5, "rewards": {EVIL: 1.0, "judge": None}, "reward": 1.0}
    completion |= {"advantage": -0.5, "finish_reason": EVIL}
    fields = {"prompt_id": 0, "id": EVIL, "task": EVIL, "prompt": f"step {step} {EVIL}"}
    files = ["images/0.png", "images/none.png", "../secret.png", "a\0b"]
    return {
        "step": step,
        **fields,
        "image_files": files,
        "answer": EVIL,
        "completions": [completion],
    }


def test_the_page_is_well_formed_inert_and_offline(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page = Tags(path.read_text())
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "link", "object", "form", "base"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/jpeg;base64,").startswith(
            "data:image/jpeg;base64,"
        )
        assert "href" not in attributes
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_untrusted_text_is_shown_as_it_is(run_dir):
    text = "".join(Tags(write_report(run_dir).read_text()).text)
    # answer, prompt, completion, finish reason, reward name, id and task in 3 steps; 3 in 2 tables
    assert text.count(EVIL) >= 3 * 7 + 2 * 3


def test_first_middle_and_last_rollouts_are_shown_with_small_images(run_dir):
    html = write_report(run_dir).read_text()
    text = "".join(Tags(html).text)
    assert [step for step in (1, 5, 10, 60) if f"step {step} <" in text] == [1, 10, 60]
    images = [a["src"] for tag, a in Tags(html).tags if tag == "img"]
    assert len(images) == 3 and all(len(image) < 20_000 for image in images)
    assert text.count("images/none.png: cannot be read (FileNotFoundError)") == 3
    assert text.count("../secret.png: outside of the run directory") == 3
    assert text.count("1 lines of the file could not be read") == 3


def test_rollouts_of_several_processes_are_one_step(run_dir):
    (run_dir / "rollouts/step_60.1.jsonl").write_text(json.dumps(rollout(61)))
    text = "".join(Tags(write_report(run_dir).read_text()).text)
    assert "step 60 <" in text and "step 61 <" in text


def test_numbers_of_the_run_are_on_the_page(run_dir):
    text = "".join(Tags(write_report(run_dir).read_text()).text)
    assert "60 of 99 steps" in text and "NaN or infinity in 1 step, first in step 7." in text
    assert "0.958" in text and "from 0.0583" in text  # means over the last and first 6 rewards
    for shown in ("Reward", "KL to the reference", "1 other metrics", "0.75", "advantage -0.50"):
        assert shown in text


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    with pytest.raises(UserError, match="expected the directory of a run"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert "No step has been written yet" in write_report(tmp_path).read_text()
    MetricsWriter(tmp_path).write(1, {"reward": 0.5})
    assert "1 steps" in write_report(tmp_path).read_text()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: broken JSON"):
        write_report(tmp_path)
