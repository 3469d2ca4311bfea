# SPDX-License-Identifier: Apache-2.0
"""Flags for GPUs: set where there may be some, overridden by what is said, known to XLA."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxvl.distributed import gpu


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
