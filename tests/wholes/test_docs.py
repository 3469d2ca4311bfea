# SPDX-License-Identifier: Apache-2.0
"""Every command and snippet of README and docs runs, or says what it needs that is not here; and
what is marked still names configs and fields that are there."""

import os
import types

import pyarrow
import pytest
from pyarrow import parquet

from jaxvl import config
from jaxvl.data.scenes import Scenes
from tests.data.published import picture, write_sat, write_vlaa
from tests.wholes.docs import NEEDS, ROOT, all_blocks, blocks
from tests.wholes.launch import launch, write_questions

BLOCKS = [block for block in all_blocks() if block.kind != "text"]
RUN = [block for block in BLOCKS if not block.needs]
MARKED = [block for block in BLOCKS if block.needs]


def name(block):
    return f"{block.page}:{block.line}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything under the names that the docs use."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "configs").symlink_to(ROOT / "configs")
    for path in ("data/SAT", "data/VLAA-Thinking", "runs/first/rollouts"):
        (folder / path).mkdir(parents=True)
    write_sat(folder / "data/SAT", copies=4)
    write_vlaa(folder / "data/VLAA-Thinking", "grpo")
    write_vlaa(folder / "data/VLAA-Thinking", "sft")
    write_questions(folder)
    table = {"problem": ["How many?"] * 4, "answer": list("1234")}
    table["pic"] = [{"bytes": picture(n), "path": None} for n in range(4)]
    parquet.write_table(pyarrow.table(table), folder / "my.parquet")
    Scenes(size=1).load()[0].images[0].save(folder / "scene.png")
    return folder


def test_there_are_blocks_and_their_marks_are_known():
    assert len(RUN) >= 8 and len(MARKED) >= 8
    assert {need for block in MARKED for need in block.needs} <= NEEDS


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=name)
def test_a_block_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    if block.kind == "python":
        assert block.text.startswith("# "), "the first line says where the snippet belongs"
        module = types.ModuleType("snippet")
        exec(compile(block.text, name(block), "exec"), module.__dict__)
        return
    for words in block.commands:
        assert words[0] == "jaxvl", f"mark what cannot be run here: {' '.join(words)}"
        launch(*words[1:], folder=place)


@pytest.mark.parametrize("block", MARKED, ids=name)
def test_what_is_marked_names_what_is_there(block, monkeypatch):
    """Configs load with the overrides that the docs give them; scripts and Python are whole."""
    monkeypatch.chdir(ROOT)
    if block.kind == "python":
        compile(block.text, name(block), "exec")
        return
    for words in block.commands:
        files = [w for w in words if w.startswith(("scripts/", "configs/", "tests/")) and "." in w]
        assert all(os.path.exists(word) for word in files), words
        if words[0] == "jaxvl" and words[1] in ("grpo", "sft", "plan") and files:
            overrides = [w for w in words[3:] if "=" in w and not w.startswith("-")]
            config.load(files[0], overrides, config.Config, config.SFTConfig)


PAGE = """
<!-- needs: gpu, minutes -->
```bash
jaxvl grpo configs/jsonl.py run.steps=2  # a comment
```

    jaxvl data list
    jaxvl eval run \\
        --tasks smoke

text

    a table, not a command

```
  ┌───┐
```
```python
import jaxvl
```
"""


def test_blocks_are_found_with_what_they_need():
    found = [(block.kind, sorted(block.needs)) for block in blocks(PAGE)]
    assert found == [("console", ["gpu", "minutes"]), ("console", []), ("text", []), ("python", [])]
    commands = [list(block.commands) for block in blocks(PAGE)[:2]]
    assert commands[0] == [["jaxvl", "grpo", "configs/jsonl.py", "run.steps=2"]]
    assert commands[1] == [["jaxvl", "data", "list"], "jaxvl eval run --tasks smoke".split()]
