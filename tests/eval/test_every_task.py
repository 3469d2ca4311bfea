# SPDX-License-Identifier: Apache-2.0
"""Every benchmark of `jaxvl eval list` from its published files to its headline figure."""

import pytest

from jaxvl.eval import tasks
from jaxvl.eval.engines.replies import Reply, ReplySampling, pairs
from jaxvl.eval.engines.run import run
from jaxvl.eval.scoring import score
from tests.eval.benchmarks import published
from tests.eval.test_scoring import FORMS

# MOSSBench has no golds; its figures are in test_mossbench.py.
NAMES = sorted(tasks.known().keys() - {"mossbench", "mossbench_contrast"})


class Says:
    """Replies to sample number k with `text(item, k)`."""

    def __init__(self, text):
        self.text, self.dropped = text, []

    def replies(self, items, missing):
        yield [
            Reply(item, k, said, said, "stop", 5, 0, "asked")
            for item, k in pairs(items, missing)
            for said in [self.text(item, k)]
        ]


def files(folder):
    return [(folder / name).read_bytes() for name in (score.SCORES, score.RESULTS)]


@pytest.mark.parametrize("name", NAMES)
def test_golds_score_all_and_nothing_scores_nothing(name, tmp_path):
    source = tmp_path / "set"
    source.mkdir()
    if tasks.find(name).needs_source:
        next(iter(published.LAYOUTS[name].values()))(source)
    task = tasks.open_task(name, str(source))
    how = ReplySampling(n=len(FORMS), temperature=1.0, max_new_tokens=8)
    for said, right in ((lambda item, k: FORMS[k].format(item.gold), 1.0), (lambda *_: "", 0.0)):
        out = tmp_path / str(right)
        run(task, Says(said), how, out, decides={"model": "m"}, about={})
        found = score.score(out / name)[0]
        for mode in ("strict", "lenient"):
            of = found["modes"][mode]
            headline = next(iter(of["metrics"].values()))
            assert (of["accuracy"].value, headline.value) == (right, right)
            assert of["accuracy"].count == len(FORMS) * len(task.items)
            assert (of["unparsed"], of["unscorable"]) == (1 - right, 0.0)
        before = files(out / name)
        score.score(out / name)
        assert files(out / name) == before
