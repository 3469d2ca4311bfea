# SPDX-License-Identifier: Apache-2.0
"""Flags for GPUs: set where there may be some, overridden by what is said, known."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxvl.distributed import flags
from scripts.bench import gpu_tables


@pytest.fixture
def everywhere(monkeypatch):
    """A machine with jax's CUDA plugin, on which jax has touched nothing yet."""
    there = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name))
    monkeypatch.setattr(flags, "importlib", there)
    monkeypatch.setattr(flags.xla_bridge, "backends_are_initialized", lambda: False)


def names(said):
    return [flag.partition("=")[0].strip("-") for flag in said.split()]


@pytest.mark.parametrize("platforms", [None, "cuda", "cpu,gpu"])
def test_flags_are_added_to_those_that_are_said(everywhere, platforms):
    env = {"XLA_FLAGS": "--a=1 --xla_gpu_enable_latency_hiding_scheduler=false"}
    env |= {"JAX_PLATFORMS": platforms} if platforms else {}
    flags.set_flags(env)
    assert env["XLA_FLAGS"].startswith("--a=1 --xla_gpu_enable_latency_hiding_scheduler=false ")
    assert names(env["XLA_FLAGS"])[2:] == list(flags.GPU)[1:]
    assert "LIBTPU_INIT_ARGS" not in env
    before = dict(env)
    flags.set_flags(env)
    assert env == before


def test_no_flag_where_no_gpu_is_asked_for(everywhere):
    env = {"JAX_PLATFORMS": "cpu"}
    flags.set_flags(env)
    assert env == {"JAX_PLATFORMS": "cpu"}


def test_no_flag_without_the_packages_or_when_it_is_too_late(everywhere, monkeypatch):
    monkeypatch.setattr(flags.xla_bridge, "backends_are_initialized", lambda: True)
    late = {}
    flags.set_flags(late)
    monkeypatch.setattr(flags.xla_bridge, "backends_are_initialized", lambda: False)
    nowhere = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(flags, "importlib", nowhere)
    plain = {}
    flags.set_flags(plain)
    assert late == plain == {}


def test_xla_knows_the_flags():
    """One that it does not know ends the process."""
    said = " ".join(f"--{name}={value}" for name, value in flags.GPU.items())
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": said}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=env, check=True)


def test_tables_take_the_place_of_those_before(tmp_path):
    """And of nothing else on the page; a page without the marks is left alone."""
    rows = [{"slots": 64, "step ms": 3.14159}, {"slots": 512, "step ms": "-"}]
    (tmp_path / "decode64.json").write_text(json.dumps({"machine": {"cpus": 16}, "rows": rows}))
    (tmp_path / "kernels.json").write_text('{"rows": []}')
    tables = [gpu_tables.table(file) for file in sorted(tmp_path.glob("*.json"))]
    assert "| 64 | 3.142 |" in tables[0] and "| 512 | - |" in tables[0]
    assert tables[1].startswith("**kernels**") and tables[1].endswith("passed")
    page = f"before\n{gpu_tables.BEGIN}\nNot run.\n{gpu_tables.END}\nbehind\n"
    once = gpu_tables.merged(page, tables)
    assert once.startswith("before\n") and once.endswith("\nbehind\n") and "Not run" not in once
    assert gpu_tables.merged(once, tables) == once
    with pytest.raises(ValueError, match="gpu tables"):
        gpu_tables.merged("no marks", tables)
    marks = gpu_tables.PAGE.read_text(encoding="utf-8")
    assert marks.count(gpu_tables.BEGIN) == marks.count(gpu_tables.END) == 1
