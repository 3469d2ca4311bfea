# SPDX-License-Identifier: Apache-2.0
"""Eight CPU devices, float32 products, compiled programs kept between runs, one tiny checkpoint."""

import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
XLA_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Programs run once or twice on tiny arrays: compiling is the cost, and these make it a sixth.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jax").startswith("0.10."):  # newer ones do not know it, and end the process over it
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS)).strip()
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may need the network
# What a shell starts in the background ignores Ctrl-C, and so would all that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tracing makes millions of objects and leaves no circles: looking for some takes a twentieth of it.
gc.set_threshold(100_000, 50, 100)

import jax  # noqa: E402  (the device count is read when jax is imported)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

import tests.axes  # noqa: E402, F401  (the hook finds it where it is imported)

# Their annotations are assertions here: each array has the axes and the kind of number it says.
install_import_hook(
    [
        "jaxvl.models.attention",
        "jaxvl.models.rope",
        "jaxvl.rl.logprobs",
        "jaxvl.rl.losses",
        "jaxvl.rl.sampling",
    ],
    "tests.axes.checked",
)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# Whole runs come first: where processes share the files, none of these is what all wait for.
FIRST = ("wholes", "train", "test_notebooks.py", "distributed", "plan", "rl", "models")


def pytest_collection_modifyitems(items):
    def place(item):
        top = item.path.relative_to(ROOT / "tests").parts[0]
        return FIRST.index(top) if top in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def environment():
    """A command that runs in this process may set variables, as `plan` sets the number of devices:
    the processes of later tests do not inherit them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """A random Qwen2-VL of two layers in the form of the public checkpoints (flat, tied, old)."""
    from tests.tiny import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "tied", weights="old")


@pytest.fixture(scope="session")
def vlm(tiny_path):
    """It, in float32 on one device."""
    from jaxvl.vlm import load

    return load(tiny_path, "float32")


@pytest.fixture(scope="session")
def tiny_hf(tiny_path):
    """It, in transformers."""
    pytest.importorskip("torch", reason="transformers' model is the reference")
    from tests.torch_reference import hf_model

    return hf_model(tiny_path)


@pytest.fixture(scope="session")
def pictures():
    """Three random pictures of different shapes: 4 x 4, 4 x 8 and 8 x 2 patches."""
    from PIL import Image

    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (h * 14, w * 14, 3), dtype=np.uint8))
        for h, w in ((4, 4), (4, 8), (8, 2))
    ]
