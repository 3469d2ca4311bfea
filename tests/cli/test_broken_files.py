# SPDX-License-Identifier: Apache-2.0
"""Files of a user's or of a run that are broken are messages: the file, its line, what to do."""

import json
from itertools import pairwise

import pytest

from jaxvl import config
from jaxvl.cli.main import main
from jaxvl.errors import UserError
from jaxvl.observe.metrics import MetricsWriter, read_metrics
from jaxvl.observe.report import write_report

CONFIGS = {  # text of a file, and what its message says
    "a bracket": ("x = 1\ny = (\n", r"mine.py, line 2: '\(' was never closed"),
    "an indent": ("def config():\nreturn 1\n", r"mine.py, line 2: .*indent.*`return 1`"),
    "a word": ("a = 1\n\nb = 2 3\n", r"mine.py, line 3: invalid syntax.*`b = 2 3`"),
    "no such module": (
        "\nimport nowhere_at_all\n",
        "line 2: ModuleNotFoundError: No module.*`import",
    ),
    "no such name": ("from jaxvl.config import Confg\n", "line 1: ImportError: cannot import name"),
    "an error": ("x = 1\ny = x / 0\n", r"line 2: ZeroDivisionError.*`y = x / 0`"),
    "an error in config()": (
        "def config():\n    a = {}\n    return a['b']\n",
        r"line 3: KeyError: 'b' \(`return a\['b'\]`\)",
    ),
    "deeper": (
        "import json\ndef config():\n    return json.loads('{')\n",
        "line 3: JSONDecodeError",
    ),
    "an exit": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "a wrong field": (
        "from jaxvl.config import Run\ndef config():\n    return Run(dirr='x')\n",
        "line 3: TypeError: .*dirr",
    ),
    "an end of its own": (
        "class Stop(BaseException): pass\ndef config():\n    raise Stop('x')\n",
        "line 3: Stop: x",
    ),
    "an error without words": (
        "class E(Exception):\n    def __str__(self): return 1 / 0\ndef config():\n    raise E\n",
        "line 4: E: .*exception str",
    ),
    "bytes": ("\0", "mine.py"),
    "nothing": ("", "defines no function config"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_file_that_cannot_be_run(tmp_path, fault):
    text, message = CONFIGS[fault]
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        config.load(tmp_path / "mine.py")


def test_the_line_of_a_file_that_a_config_imports(tmp_path, monkeypatch):
    (tmp_path / "of_mine.py").write_text("x = (\n")
    (tmp_path / "mine.py").write_text("import of_mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"mine.py: .*of_mine.py, line 1: .*never closed"):
        config.load(tmp_path / "mine.py")


def test_a_config_that_is_no_text(tmp_path):
    (tmp_path / "mine.py").write_bytes(b"x = '\xff\xfe'\n")
    with pytest.raises(UserError, match="mine.py"):
        config.load(tmp_path / "mine.py")


ALIASES = "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in pairwise("abcdefgh"))
YAMLS = {  # text of a file, and what its message says
    "a tag": ("model: !!python/object/apply:os.system ['x']\n", "could not determine"),
    "a key twice": ("model: {path: a}\nmodel: {path: b}\n", "line 2: the key 'model' stands twice"),
    "a key twice below": ("model:\n  path: a\n  path: b\n", "line 3: the key 'path' stands"),
    "itself": ("model: &a {path: *a}\n", "or for themselves"),
    "itself in a list": ("model: {train: &a [*a]}\n", "or for themselves"),
    "aliases of aliases": (f"a: &a [x, x, x, x, x, x]\n{ALIASES}", "more than 100000 values"),
    "a source of a list": ("data: {source: {type: [1]}}\n", "type = .*expected one of"),
    "deep": ("[" * 3000, "recursion"),
}


@pytest.mark.parametrize("fault", YAMLS)
def test_a_config_in_yaml_that_cannot_be_read(tmp_path, fault):
    text, message = YAMLS[fault]
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=f"mine.yaml.*({message})"):
        config.load(tmp_path / "mine.yaml")


def test_a_config_file_of_a_name_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="no config file at"):
        config.load(tmp_path / ("x" * 5000))


def test_what_the_machine_refuses_is_one_message(tmp_path, monkeypatch, capsys):
    """Here a folder where a command writes its file."""
    MetricsWriter(tmp_path).write(1, {"loss": 1.0})
    (tmp_path / "out.html").mkdir()
    words = ["jaxvl", "report", str(tmp_path), "--out", str(tmp_path / "out.html")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "out.html" in said and len(said.splitlines()) == 1


LINES = ['{"loss": 1}', '{"step": "2"}', '{"step": 2.5}', '{"step": null}', '{"step": true}', "[2]"]
LINES += ["2", "null", '{"step": 2', "", '{"step": 2}}', "\x00\x00\x00", "[" * 5000]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_metrics_that_is_none(tmp_path, line):
    """In the middle; a last one that is cut is what a killed run leaves."""
    MetricsWriter(tmp_path).write(1, {"loss": 1.0})
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + line)
    assert [one["step"] for one in read_metrics(tmp_path)] == [1]
    (tmp_path / "metrics.jsonl").write_text(whole + line + "\n" + whole)
    with pytest.raises(UserError, match="metrics.jsonl, line 2: .*take the line out"):
        read_metrics(tmp_path)


STRAY = {
    "notes.txt": "hello",
    "step_x.jsonl": "{}",
    "step_.jsonl": "{}",
    "step_2.jsonl": "not JSON",
    "step_3.jsonl": "[1, 2]\n3\nnull\n",
    "step_4.jsonl": '{"completions": 5}\n{"completions": [1]}\n{"completions": [{"rewards": 1}]}',
    "step_5.jsonl": '{"image_files": 5}\n{"image_files": [5, null, {}]}\n',
    "step_6.jsonl": '{"prompt": {"a": 1}, "completions": [{}]}\n',
    "step_7.jsonl": "\xff\xfe\x00",
    "step_99999999999999999999.jsonl": "{}",
}


@pytest.mark.parametrize("name", STRAY)
def test_stray_rollouts_spoil_no_page(tmp_path, name):
    MetricsWriter(tmp_path).write(1, {"loss": 1.0})
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / name).write_text(STRAY[name], encoding="latin-1")
    assert "loss" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "found", [[1, 2], {"title": 3}, {"before": 5}, "x", {"columns": 3, "rows": 4, "title": "x"}]
)
def test_an_evaluation_of_another_form_is_a_page_or_a_message(tmp_path, found):
    MetricsWriter(tmp_path).write(1, {"loss": 1.0})
    (tmp_path / "eval.json").write_text(json.dumps(found))
    try:
        write_report(tmp_path)
    except UserError as error:
        assert "eval.json" in str(error)
