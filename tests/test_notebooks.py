# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from the first cell to the last, and show what they say."""

import os
import re
from pathlib import Path

import jax
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]

ALL = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAYS = {  # of notebooks that compile nothing: what their cells print, besides running
    "04_from_laptop_to_pod": ("16 devices: a step has 8 rows", "16 devices: 1 row(s)", "sbatch"),
    "05_from_trl": ("grpo.group=8", "NOT THERE", "mine = 7", "has the form of TRL's datasets"),
}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_every_notebook_is_run():
    trained = {"01_look_and_ask", "02_write_a_reward", "03_look_into_a_run"}
    assert {path.stem for path in ALL} == {*SAYS, *trained}


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_runs_and_says_what_it_should(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.get("text", "") for output in outputs)
    assert all(words in told for words in SAYS[name]), told


def executed(name, monkeypatch, folder):
    """A notebook's stdout and how many images it shows."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    return told, sum("image/png" in output.get("data", {}) for output in outputs)


def test_look_and_ask(monkeypatch, tmp_path):
    told, images = executed("01_look_and_ask", monkeypatch, tmp_path)
    assert images == 3  # the scene, one head, all heads
    said = dict(re.findall(r"^Where is the (\w+)\? (.*)$", told, re.M))
    true = dict(thing.split() for thing in told.splitlines()[1].split(", "))
    assert said.keys() == true.keys()
    right = sum(said[name].endswith(true[name]) for name in true)
    assert right >= 2  # of three; one in 16 by chance
    looked = re.findall(r"^asked for the (\w+), (\d+)% of the attention is on the \1$", told, re.M)
    assert [name for name, _ in looked] == list(true)
    assert min(int(share) for _, share in looked) > 50  # 100 with the base of the checkout


def test_write_a_reward(monkeypatch, tmp_path):
    told, images = executed("02_write_a_reward", monkeypatch, tmp_path)
    assert images >= 1  # the curve; beside it the run's own live chart
    before, after = map(float, re.search(r"before (.*), after (.*)", told).groups())
    assert after > before + 0.1  # 0.51 and 0.89 when it was written


def test_look_into_a_run(monkeypatch, tmp_path):
    told, images = executed("03_look_into_a_run", monkeypatch, tmp_path)
    assert images >= 1 and "the advantages add up to 0.000" in told
    assert float(re.search(r"largest gap of 4 steps: (.*)", told)[1]) < 1e-3
    assert int(re.search(r"(\d+) tokens, 100% of the gaps", told)[1]) > 100
