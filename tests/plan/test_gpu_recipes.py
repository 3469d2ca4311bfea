# SPDX-License-Identifier: Apache-2.0
"""The papers' recipes and the one with adapters, at the published widths but two layers, by XLA's
compiler for CUDA: they fit, cuDNN attends, and decoding moves little but what it must."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxvl.models import public
from jaxvl.plan import cuda

ROOT = Path(__file__).parents[2]
ASIDE = Path(sys.prefix) / "plan-gpu"  # where .ci/run installs the compiler
pytestmark = pytest.mark.skipif(
    not any(
        cuda._found(f"jax_plugins.{name}") or (ASIDE / "jax_plugins" / name).is_dir()
        for name in cuda.PLUGINS
    ),
    reason="XLA's compiler for CUDA is not installed: jaxvl[plan-gpu]",
)
RECIPES = {  # and their settings in hardware.json
    "visualthinker": ("Qwen/Qwen2-VL-2B", "visualthinker-2b"),
    "vlaa": ("Qwen/Qwen2.5-VL-3B-Instruct", "vlaa-qwen2.5-3b"),
    "lora_24gb": ("Qwen/Qwen2-VL-2B-Instruct", ""),
}
SETTINGS = json.loads((ROOT / "configs/hardware.json").read_text())
ONE_ROW = ["mesh.fsdp=8", "grpo.micro_batches=1"]  # a GPU, of eight with adapters
ATTEND = {"prefill", "logprobs", "update"}
# What a token moves beside the passes over its logits, which of two layers of 28 or 36 are the
# largest part, by what it has to: weights and caches read once.
MOST, PASSES = 1.5, 6


def two_layers(name: str, path: Path) -> tuple[Path, dict]:
    """config.json of a published model, all but two layers of tower and decoder left out."""
    config = public.config(name)
    vision = config["vision_config"] | {"depth": 2}
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [1]
    config |= {"num_hidden_layers": 2, "vision_config": vision}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path, config


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_compiled_for_gpus(recipe, gpus, tmp_path):
    name, planned = RECIPES[recipe]
    model, config = two_layers(name, tmp_path / name.split("/")[1])
    words = SETTINGS[planned]["hardware"][f"gpu:{gpus}"] if planned else ONE_ROW * (gpus > 1)
    done = subprocess.run(
        [sys.executable, "-m", "jaxvl", "plan", f"configs/{recipe}.py", f"model.path={model}"]
        + ["--gpu", "h100", f"--gpus={gpus}", "--json", *words],
        cwd=ROOT,
        # Without the flags that make compiling fast in tests.
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ASIDE)))},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    programs = {program["name"]: program for program in found["programs"]}
    assert found["fits"] and found["exact"] and found["chips"] == gpus
    for name in ATTEND:
        program = programs[name]
        assert any(kernel.startswith("__cudnn$fmha") for kernel in program["kernels"]), name
        assert not any("cuDNN" in warning for warning in program["warnings"])
    kinds = {one["kind"] for one in programs["update"]["collectives"]}
    assert "all-gather" in kinds if gpus > 1 else not kinds
    decoding = [program for name, program in programs.items() if name.startswith("decode")]
    assert decoding
    for program in decoding:
        check_decoding(program, config)


def check_decoding(program: dict, config: dict) -> None:
    """No weight is copied or exchanged in the loop, and little is moved but what must be."""
    dim, wide = config["hidden_size"], config["intermediate_size"]
    weights = {(dim, wide), (dim, 2 * wide), (dim, config["vocab_size"]), (dim, dim)}
    for array in program["largest"]:
        sizes = map(int, array["shape"].partition("[")[2].rstrip("]").split(","))
        assert tuple(sorted(sizes)[-2:]) not in weights, array
    assert sum(one["bytes"] for one in program["collectives"]) < 1e6
    logits = max(array["bytes"] for array in program["largest"] if "head/" in array["where"])
    held = program["memory"]["arguments"] + program["memory"]["outputs"]
    assert held < program["traffic"] / program["turns"] < MOST * held + PASSES * logits
