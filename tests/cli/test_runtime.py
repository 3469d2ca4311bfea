# SPDX-License-Identifier: Apache-2.0
"""What a command tells jax before it touches a device."""

import os

import jax
import pytest

from jaxvl.cli import runtime
from jaxvl.plan.chips import GPU_SHARE

CHECK, SHARE = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "XLA_CLIENT_MEM_FRACTION"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    for name in (CHECK, SHARE, "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever is set
        monkeypatch.delenv(name)
    kept = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", kept)


@pytest.mark.parametrize("gpus", [[], ["/dev/nvidia0"]])
def test_nvidias_libraries_are_asked_for_where_there_is_a_gpu(monkeypatch, gpus):
    monkeypatch.setattr(runtime.glob, "glob", lambda pattern: gpus)
    runtime.prepare_jax()
    assert os.environ.get(CHECK) == (None if gpus else "1")
    assert os.environ[SHARE] == str(GPU_SHARE)


def test_what_is_set_stays(monkeypatch):
    monkeypatch.setenv(CHECK, "0")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    runtime.prepare_jax()
    assert os.environ[CHECK] == "0" and SHARE not in os.environ


def test_compiled_programs_are_kept_below_the_users_home(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime.Path, "home", lambda: tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    runtime.prepare_jax()
    kept = jax.config.values["jax_compilation_cache_dir"]
    assert kept == str(tmp_path / ".cache/jaxvl/compiled")
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    runtime.prepare_jax()
    assert jax.config.values["jax_compilation_cache_dir"] == "elsewhere"
