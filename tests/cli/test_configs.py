# SPDX-License-Identifier: Apache-2.0
"""`jaxvl config`, `init`, `convert-config`, --version: what they print and write."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import jaxvl
from jaxvl import config
from jaxvl.cli import configs
from jaxvl.cli.main import app
from jaxvl.config.fields import MISSING, describe
from jaxvl.errors import UserError
from scripts import docs_fields

ROOT = Path(__file__).parents[2]
MACHINE = ("--memory=80", "--devices=1")
NOTHING = '""'


def run(*args, code=0, answers=None):
    done = CliRunner().invoke(app, [str(arg) for arg in args], input=answers)
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


def test_version_and_completion():
    assert run("--version") == f"jaxvl {jaxvl.__version__}\n"
    assert "--install-completion" in run("--help")


@pytest.mark.parametrize("name", ["quickstart", "quickstart_sft", "vlaa"])
def test_the_whole_config_is_shown(name):
    said = run("config", ROOT / f"configs/{name}.py", "run.steps=7")
    cfg = config.load(ROOT / f"configs/{name}.py", [], config.Config, config.SFTConfig)
    assert "* run.steps = 7\n" in said and "at least 1" in said
    assert ("* optim.b2 = 0.99\n" if name == "quickstart" else "  optim.b2 = 0.999\n") in said
    for field in describe(type(cfg)):
        always = field.path.count(".") == 1 and not field.path.startswith(("eval.", "benchmarks."))
        if always:
            assert f" {field.path} = " in said, field.path


@pytest.mark.parametrize("command, kind", [("grpo", config.Config), ("sft", config.SFTConfig)])
def test_help_lists_every_field_with_its_default_and_range(command, kind):
    lines = run(command, "--help").splitlines()
    for field in describe(kind):
        at = [n for n, line in enumerate(lines) if line.startswith(f"  {field.path}=")]
        assert at and any(f"{field.range}. {field.doc}" in lines[n + 1] for n in at), field.path
    assert "  run.dir=must be set" in lines


def test_the_sites_page_has_every_field_with_its_default_and_range():
    rows = [line.split(" | ") for line in docs_fields.page().splitlines() if line[:3] == "| `"]
    told = {tuple(row[:3]) for row in rows}
    assert len(rows) > 120 and all(len(row) == 4 and len(row[3]) > 4 for row in rows)
    for kind in (config.Config, config.SFTConfig):
        for field in describe(kind):
            ranged = f"{field.type}, {field.range}" if field.range else field.type
            cells = {row[1:] for row in told if row[0] == f"| `{field.path}`"}
            assert ranged in {of for _, of in cells}, field.path
            missing = field.default is MISSING
            written = "must be set" if missing else f"`{configs.shown(field.default) or NOTHING}`"
            assert written in {default for default, _ in cells}, field.path


def test_a_config_is_begun_for_ones_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.jsonl").write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    said = run("init", "a.py", "--data=my.jsonl", "--memory=80", "--devices=8", "--model=x/A-3B")
    assert "the first question is '2 + 2?'" in said and "train whole" in said
    cfg = config.load("a.py")
    assert cfg.model.lora is None and cfg.mesh.fsdp == -1 and cfg.grpo.prompts == 64
    docs = {field.path: field.doc for field in describe(config.Config)}
    for path in ("grpo.prompts", "optim.lr", "run.save_every"):
        assert f"# {docs[path]}" in Path("a.py").read_text(), path
    row = {"prompt": [{"role": "user", "content": "2 + 2?"}], "solution": "4"}
    Path("trl.jsonl").write_text(json.dumps(row) + "\n")
    said = run("init", "b.py", answers="trl.jsonl\nx/A-7B\n24\n1\n")  # what is no option is asked
    assert "adapters beside a frozen model" in said
    cfg = config.load("b.py")
    assert cfg.model.lora and cfg.data.source.conversation == "prompt"
    assert "is there already" in str(
        CliRunner().invoke(app, ["init", "b.py", "--data=x"], input="\n\n\n").exception
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model=x/A-3B"], "--data is not given, and there is nobody to ask"),
        (
            ["--data=my.jsonl", "--model=x/A-3B", "--memory=80", "--devices=1"],
            "no file or folder my.jsonl",
        ),
        (
            ["--data=x/set", "--model=./nope", "--memory=80", "--devices=1"],
            "./nope: neither a directory nor a hub id",
        ),
        (["--data=x/set", "--model=x/A-3B", "--memory=1"], "--devices is not given"),
    ],
)
def test_what_cannot_be_begun_is_told(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["init", *options]).exception
    assert isinstance(error, UserError) and said in str(error)
    assert not Path("run.py").exists()


def test_a_config_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    words = ["init", "file/a.py", "--data=x/set", "--model=x/A-3B", *MACHINE]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UserError) and "file/a.py cannot be written" in str(error)
    words = ["init", "new/a.py", "--data=none.jsonl", "--model=x/A-3B", *MACHINE]
    assert isinstance(CliRunner().invoke(app, words).exception, UserError)
    assert not Path("new").exists()


def test_the_size_of_a_model_is_its_configs_or_not_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rest = ["--data=x/set", *MACHINE]
    base = ROOT / "configs/quickstart_base"
    said = run("init", "a.py", f"--model={base}", *rest)
    assert "model: 0.00149 billion parameters train whole" in said
    assert "there is no x/set here; a run looks for it on the hub" in said
    said = run("init", "b.py", "--model=x/mine", *rest)
    assert "does not say how large it is" in said and "there is no directory x/mine here" in said


def test_a_column_of_pictures_of_another_name_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (56, 56)).save("0.png")
    row = {"problem": "2 + 2?", "solution": "4", "pic": "0.png"}
    Path("my.jsonl").write_text(json.dumps(row) + "\n")
    said = run("init", "a.py", "--data=my.jsonl", "--model=x/A-3B", *MACHINE)
    assert "`pic` has the pictures" in said and "with 1 images" in said
    assert config.load("a.py").data.source.image == ("pic",)


def test_arguments_are_converted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--model_name_or_path m --num_generations 4 --mine 3"
    said = run("convert-config", "--from-args", words, "--out", "new/c.py")
    assert "rewards=accuracy,think_format" in said and "<function" not in said
    assert "grpo.group=4" in said and "left out:\nmine = 3" in said
    assert config.load("new/c.py").grpo.group == 4
