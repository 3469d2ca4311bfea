# SPDX-License-Identifier: Apache-2.0
"""The chart in a notebook: one that grows, with the last step in it when a run is over."""

import pytest

from jaxvl.observe import live
from jaxvl.train.callbacks import Callbacks

display = pytest.importorskip("IPython.display")


class Shown(list):
    """What is displayed, in the cell's one place."""

    def __call__(self, drawn, display_id):
        self.update(drawn)
        return self

    def update(self, drawn):
        self.append(drawn.data)


def test_it_grows_in_its_place_and_ends_with_the_last_step(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    shown, drawn = Shown(), []
    monkeypatch.setattr(display, "display", shown)

    def drawing(series, form):
        drawn.append({name: [step for step, _ in points] for name, points in series.items()})
        return make(series, form)

    make = live.drawing
    monkeypatch.setattr(live, "drawing", drawing)
    chart = live.LiveChart(("reward", "kl", "none"))
    told = Callbacks([chart], tmp_path)
    told(1, {"reward": 0.5, "kl": 0.1})
    for step in (2, 3):  # at once: they wait for the next drawing
        told(step, {"reward": 0.5})
    assert drawn == [{"reward": [1], "kl": [1]}]
    told.close()
    told.close()  # nothing is behind
    assert drawn[1:] == [{"reward": [1, 2, 3], "kl": [1]}]
    assert len(shown) == 2 and all("</svg>" in text for text in shown)
