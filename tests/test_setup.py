# SPDX-License-Identifier: Apache-2.0
"""The scripts of the README on a fresh checkout: what is installed, and who gets the arguments."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A Python that makes a folder of itself for `-m venv` and writes down what else it is asked.
STUB = r"""#!/usr/bin/env bash
case "$*" in
-c*version_info\[:2\]*) echo "${VERSION:-3.11}" ;;
-c*) ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/jaxvl" ;;
*) printf '%s|' "$(basename "$0")" "$@" >>"$CALLS" && echo >>"$CALLS" ;;
esac
"""


DOCKERFILE = ROOT / "scripts/launch/Dockerfile"


def test_the_container_copies_what_is_there_and_installs_what_was_tested():
    lines = DOCKERFILE.read_text().splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM ")]
    python = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)[1]  # never the newest that there is
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied and all((ROOT / word).exists() for word in copied)
    assert f"constraints/py{python}.txt" in copied
    assert f"--constraint constraints/py{python}.txt " in DOCKERFILE.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "requirements.txt", project["readme"]} <= set(copied)
    assert set(project["license-files"]) <= set(copied)
    named = re.findall(r'"\.\[(\w+)\]"', "\n".join(lines))
    assert named and set(named) <= project["optional-dependencies"].keys()


def test_hadolint_finds_nothing():
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=here)
    if not hadolint:
        pytest.skip("hadolint is not there (the test extra brings it)")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_wheel_holds_every_file_that_is_no_python():
    """What a package reads beside its modules is package data; what the quickstart reads, data."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    kept = set()
    for package, patterns in tools["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        kept |= {path for pattern in patterns for path in folder.glob(pattern)}
    needed = {
        path
        for path in (ROOT / "jaxvl").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert needed <= kept
    data = [
        path for patterns in tools["data-files"].values() for p in patterns for path in ROOT.glob(p)
    ]
    configs = {path for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert {path for path in configs if "__pycache__" not in path.parts} <= set(data)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the docs extra is missing")
def test_the_docs_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference/config/index.html").is_file()
    fields = (tmp_path / "reference/fields/index.html").read_text()  # made by a hook
    assert all(f"<code>{name}</code>" in fields for name in ("optim.lr", "sft.pack"))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("build"), reason="the package build is missing")
def test_the_wheel_and_the_sdist_are_built_and_the_wheel_runs_alone(tmp_path):
    """The wheel is unpacked where no checkout is; the packages that it needs are this Python's."""
    source, site = tmp_path / "source", tmp_path / "site"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, (x.decode() for x in names)):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (_,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site)]
    subprocess.run([*install, str(wheel)], capture_output=True, check=True)
    config = site / "share/jaxvl/configs/quickstart.py"
    command = [sys.executable, "-m", "jaxvl", "config", str(config)]
    place = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert done.returncode == 0 and "grpo.group = " in done.stdout, done.stderr
    asked = [sys.executable, "-c", "import jaxvl; print(jaxvl.__file__)"]
    done = subprocess.run(asked, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert done.stdout.strip() == str(site / "jaxvl/__init__.py")


@pytest.fixture
def fresh(tmp_path):
    """A checkout without an environment, and a function that runs bash in it: the calls made."""
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("scripts", "constraints"):
        shutil.copytree(ROOT / name, tmp_path / name)
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    calls = tmp_path / "calls"

    def run(*command, code=0, **more):
        calls.unlink(missing_ok=True)
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(stub), "CALLS": str(calls), **more}
        done = subprocess.run(
            ["bash", *command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return calls.read_text().split("\n")[:-1] if calls.exists() else done.stderr

    return run


PIP = "python|-m|pip|install|--quiet|--disable-pip-version-check|"
INSTALL = PIP + "--constraint|constraints/py3.11.txt|--editable|."
ARGUMENTS = [
    [],
    ["run.seed=1"],
    ["run.steps=60", "grpo.group=4"],
    ["test"],
    ["cuda", "run.seed=2"],
    ["optim.lr=1e-4", "run.dir=a folder"],
    ["tests/rl"],
    ["-k", "sampler or losses"],
    ["--co", "tests/rl", "tests/data"],
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_arguments_of_a_script_are_its_own(fresh, arguments):
    install, train = fresh("scripts/quickstart.sh", *arguments)
    assert install == INSTALL + "|"
    words = ["jaxvl", "grpo", "configs/quickstart.py", "run.dir=runs/quickstart", *arguments]
    assert train.split("|")[:-1] == words
    install, pytest_run = fresh("scripts/test.sh", *arguments)
    assert install == INSTALL + "[test]|"
    assert pytest_run.split("|--dist|loadfile|")[1] == "".join(f"{word}|" for word in arguments)


@pytest.mark.parametrize("arguments", ARGUMENTS[:3] + ARGUMENTS[5:], ids=" ".join)
def test_sourced_without_arguments_it_installs_no_extra(fresh, arguments):
    assert fresh("-c", "set -eu; . scripts/setup.sh", "script", *arguments) == [INSTALL + "|"]


@pytest.mark.parametrize(
    "extra", ["tpu", "cuda", "plan-gpu", "judge", "serve", "ray", "notebook", "test", "bench"]
)
def test_extras_by_name(fresh, extra):
    assert fresh("scripts/setup.sh", extra) == [f"{INSTALL}[{extra}]|"]
    assert fresh("scripts/setup.sh", extra) == ""  # installed already
    assert fresh("-c", f". scripts/setup.sh {extra}", "script", "run.seed=1") == ""


def test_the_extras_are_those_of_the_project():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = next(
        line
        for line in (ROOT / "scripts/setup.sh").read_text().split("\n")
        if "EXTRA=" in line and line.startswith('"" |')
    )
    assert {word for word in listed.split(")")[0].split(" | ")[1:]} == set(
        extras["optional-dependencies"]
    )


@pytest.mark.parametrize("word", ["cdua", "run.seed=1", "tests/rl", "--help", "test tpu"])
def test_a_word_that_is_no_extra_is_an_error(fresh, word):
    assert f"no extra {word}; expected one of tpu" in fresh("scripts/setup.sh", word, code=2)


def test_a_python_without_tested_versions_is_told_so(fresh, tmp_path):
    (tmp_path / "said").mkdir()
    command = "scripts/setup.sh test 2>said/error"
    assert fresh("-c", f"bash {command}", VERSION="3.14") == [PIP + "--editable|.[test]|"]
    assert "no constraints/py3.14.txt" in (tmp_path / "said/error").read_text()
    assert fresh("scripts/setup.sh", "test", VERSION="3.14") == ""


@pytest.mark.parametrize("file", sorted((ROOT / "constraints").iterdir()), ids=lambda f: f.name)
def test_constraints_name_every_requirement_once(file):
    """By version alone: no place that it is taken from, no build of one machine's."""
    lines = [line for line in file.read_text().split("\n") if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))
    wanted = re.findall(r"(?m)^([\w-]+)", (ROOT / "requirements.txt").read_text())
    # Trackers allow old versions of what others need new: pip searches for minutes by itself.
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted += extras["optional-dependencies"]["track"]
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} <= set(names)
