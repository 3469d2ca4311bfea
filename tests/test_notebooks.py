# SPDX-License-Identifier: Apache-2.0
"""The notebook runs from its first cell to its last, and shows what it says."""

import os
import re
from pathlib import Path

import jax
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "notebooks/tour.ipynb"


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
    assert {path.stem for path in ALL} == {*SAYS, TOUR.stem}


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_runs_and_says_what_it_should(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.get("text", "") for output in outputs)
    assert all(words in told for words in SAYS[name]), told


def test_the_tour(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(TOUR, 4)
    place = {"metadata": {"path": str(TOUR.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # the scene, one head, all heads, the curve
    told = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    said = dict(re.findall(r"^Where is the (\w+)\? (.*)$", told, re.M))
    true = dict(thing.split() for thing in told.splitlines()[1].split(", "))
    assert said.keys() == true.keys()
    assert (
        sum(said[name].endswith(true[name]) for name in true) >= 2
    )  # of three; one in 16 by chance
    looked = re.findall(r"^asked for the (\w+), (\d+)% of the attention is on the \1$", told, re.M)
    assert [name for name, _ in looked] == list(true)
    assert min(int(share) for _, share in looked) > 50  # 100 with the base of the checkout
    assert re.findall(r"^step (\d+)/10 ", told, re.M) == [str(step) for step in range(1, 11)]
    before, after = map(float, re.search(r"before (.*), after (.*)", told).groups())
    assert after > before + 0.1  # 0.51 and 0.89 with it
