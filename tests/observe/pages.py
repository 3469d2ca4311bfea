"""A run directory full of hostile text, and what a page says of it."""

import base64
import gzip
import json
from html.parser import HTMLParser

from PIL import Image, ImageDraw

from jaxvl.observe.metrics import MetricsWriter

EVIL = (
    "</pre></script><!--<script>alert('x')</script><img src=http://x.test/a onerror=alert(1)>"
    "{{ 7*7 }}"
)


class Page(HTMLParser):
    """Tags with attributes, the text outside of scripts, and scripts by id (the page's own: "")."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self._in = [], [], {}, None
        self.feed(text)
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = dict(attrs).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in is None:
            self.text.append(data)
        else:
            self.scripts[self._in] = self.scripts.get(self._in, "") + data

    def step(self, step, run=0):
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[f"step-{run}-{step}"])))


def completion(number, right, text=EVIL):
    return {
        "text": text,
        "tokens": 5 + number,
        "rewards": {EVIL: 1.0, "accuracy": float(right), "judge": None},
        "reward": 1.0 + right,
        "advantage": 0.5 if right else -0.5,
        "finish_reason": "length" if number == 3 else "stop",
    }


def rollout(step, example="ex-1", right=2):
    """A line with four completions, of which the first `right` are right."""
    texts = [EVIL, "wait, <b>let me check</b> again", "against the checkers", "x " * 400]
    return {
        "step": step,
        "prompt_id": 0,
        "id": example,
        "task": EVIL,
        "prompt": f"step {step} {EVIL}",
        "image_files": ["images/0.png", "images/none.png", "../secret.png", "a\0b"],
        "answer": EVIL,
        "completions": [completion(n, n < right, text) for n, text in enumerate(texts)],
    }


def gaps():
    """Of the first completion a token a character, the second a gap of -0.1; nothing whole of the
    others."""
    codes = [0, -51, *(len(EVIL) - 2) * [1]]
    packed = [
        base64.b64encode(bytes(x % 256 for x in of)).decode() for of in ([1] * len(EVIL), codes)
    ]
    return (
        json.dumps({"prompt_id": 0, "completions": [packed, None, ["AQ==", EVIL], [EVIL, 3]]})
        + "\n"
    )


def write_run(run, steps=(1, 5, 10, 60), last=60):
    """A run of `last` steps with rollouts of `steps`; beside it lies a file it must not show."""
    writer = MetricsWriter(run)
    for step in range(1, last + 1):
        kl = float("nan") if step == 7 else 0.1
        line = {"reward": step / last, "kl": kl, "rewards/accuracy/mean": 0.5, EVIL: 1.0}
        line |= {f"completions/{p}_length": n for n, p in enumerate(("p10", "p50", "p90", "mean"))}
        writer.write(step, line)
    (run / "config.json").write_text(json.dumps({"model": {"path": EVIL}, "run": {"steps": 99}}))
    table = {"title": EVIL, "columns": [EVIL, "accuracy"], "rows": [[EVIL, 0.75]]}
    (run / "eval.json").write_text(json.dumps({"before": table, "after": table}))
    (run / "rollouts").mkdir()
    (run / "images").mkdir()
    image = Image.new("RGB", (1600, 900), "red")
    ImageDraw.Draw(image).ellipse((100, 100, 900, 700), fill="blue")
    image.save(run / "images/0.png")
    Image.new("RGB", (8, 8)).save(run.parent / "secret.png")
    (run / "rollouts/gaps").mkdir()
    for number, step in enumerate(steps):
        (run / "rollouts/gaps" / f"step_{step}.jsonl").write_text(gaps() + "[1\n")
        lines = [rollout(step, "ex-1", number % 5), rollout(step, f"ex-at-{step}", 2)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "rollouts" / f"step_{step}.jsonl").write_text(text + "[1\n")
    return run
