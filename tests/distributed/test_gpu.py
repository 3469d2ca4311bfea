# SPDX-License-Identifier: Apache-2.0
"""Flags for GPUs: set where there may be some, overridden by what is said, known to XLA."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxvl.distributed import gpu
from scripts.bench import gpu_tables


@pytest.fixture
def with_plugin(monkeypatch):
    """A machine with jax's CUDA plugin, on which jax has touched nothing yet."""
    monkeypatch.setattr(
        gpu, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name))
    )
    monkeypatch.setattr(gpu.xla_bridge, "backends_are_initialized", lambda: False)


@pytest.mark.parametrize("platforms", [None, "cuda", "cpu,gpu"])
def test_flags_are_added_to_those_that_are_said(with_plugin, platforms):
    env = {"XLA_FLAGS": "--a=1 --xla_gpu_enable_latency_hiding_scheduler=false"}
    env |= {"JAX_PLATFORMS": platforms} if platforms else {}
    gpu.set_flags(env)
    flags = env["XLA_FLAGS"].split()
    assert flags[:2] == ["--a=1", "--xla_gpu_enable_latency_hiding_scheduler=false"]
    assert [flag.partition("=")[0].strip("-") for flag in flags[2:]] == list(gpu.FLAGS)[1:]
    before = dict(env)
    gpu.set_flags(env)
    assert env == before


@pytest.mark.parametrize("platforms", ["cpu", "tpu"])
def test_no_flag_where_no_gpu_is_asked_for(with_plugin, platforms):
    env = {"JAX_PLATFORMS": platforms}
    gpu.set_flags(env)
    assert env == {"JAX_PLATFORMS": platforms}


def test_no_flag_without_the_plugin_or_when_it_is_too_late(with_plugin, monkeypatch):
    monkeypatch.setattr(gpu.xla_bridge, "backends_are_initialized", lambda: True)
    late = {}
    gpu.set_flags(late)
    monkeypatch.setattr(gpu.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(gpu, "importlib", importlib)
    plain = {}
    if not any(importlib.util.find_spec(name) for name in gpu._PLUGINS):
        gpu.set_flags(plain)
    assert late == plain == {}


def test_xla_knows_the_flags():
    """One that it does not know ends the process."""
    flags = " ".join(f"--{name}={value}" for name, value in gpu.FLAGS.items())
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
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
