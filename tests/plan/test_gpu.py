# SPDX-License-Identifier: Apache-2.0
"""Plans for NVIDIA GPUs: their facts, what is read off a compiled program, and the compiler itself
where it is installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxvl.errors import UserError
from jaxvl.plan import cuda, links
from jaxvl.plan.chips import GPUS, GpuNode
from jaxvl.plan.collectives import Collective
from jaxvl.plan.forecast import SORT_CYCLES, one_by_one, sort_cycles
from jaxvl.plan.hlo import Module
from tests.plan.small import write_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_a_target_says_what_the_table_says(gpu):
    """The compiler is told of the GPU whose memory and speed the plan counts with."""
    text = gpu.target.read_text()

    def says(field):
        return re.search(rf"^ +{field}: (\S.*)$", text, re.MULTILINE)[1]

    assert json.loads(says("name")) == gpu.kind
    assert float(says("device_memory_size")) == pytest.approx(gpu.memory, rel=1e-3)
    assert float(says("memory_bandwidth")) == pytest.approx(gpu.bandwidth, rel=1e-3)
    major, minor, patch = map(int, re.findall(r"(?:major|minor|patch): (\d+)", text)[-3:])
    assert major * 10_000 + minor * 100 + patch == cuda.CUDNN
    assert gpu.flops > 300e12 and gpu.hbm < gpu.memory


def test_a_machine():
    """All of a GPU's link, whomever it exchanges with."""
    node = GpuNode.of("h100", 8)
    assert (str(node), node.chips) == ("8 x NVIDIA H100 80GB HBM3", 8)
    for group in ((0, 1, 2, 3), (0, 7)):
        one = Collective("all-gather", 8e9, 1, (group,), "")
        assert links.seconds(node, [], one) == pytest.approx(one.moved / 450e9)
    with pytest.raises(UserError, match="no such GPU; expected one of a100, h100, h200"):
        GpuNode.of("h1000", 1)
    with pytest.raises(UserError, match="expected 1 to 8 with --gpu"):
        GpuNode.of("h100", 16)


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(cuda, "_found", lambda module: False)
    with pytest.raises(UserError, match=r"pip install 'jaxvl\[plan-gpu\]'.*Without --gpu"):
        cuda.gpu_devices(GpuNode.of("h100", 1))
    assert (
        f'"{cuda.__name__.partition(".")[0]}.plan" = ["targets/*.txtpb"]'
        in (ROOT / "pyproject.toml").read_text()
    )
    assert re.search(r"^plan-gpu = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


# ruff: noqa: E501 (lines as HLO has them)
# Three turns of a loop with a product that waits for arithmetic and an addition that waits for
# memory; then attention of the tower.
TEXT = """HloModule m, num_partitions=1

%body (p: (s32[], f32[1024,1024])) -> (s32[], f32[1024,1024]) {
  %p = (s32[], f32[1024,1024]{1,0}) parameter(0)
  %x = f32[1024,1024]{1,0} get-tuple-element(%p), index=1
  %a = f32[1024,1024]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/decoder/mlp/dot"}
  %b = f32[1024,1024]{1,0} add(%a, %a), metadata={op_name="jit(f)/head/add"}
  %c = f32[1024,1024]{1,0} sort(%b), dimensions={1}, metadata={op_name="jit(f)/sampling/sort"}
  ROOT %next = (s32[], f32[1024,1024]{1,0}) tuple(%p, %c)
}

%condition (q: (s32[], f32[1024,1024])) -> pred[] {
  %q = (s32[], f32[1024,1024]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%n, %n), direction=GT
}

ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {
  %start = (s32[], f32[1024,1024]{1,0}) parameter(0)
  %loop = (s32[], f32[1024,1024]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %k = f32[1024,1024]{1,0} custom-call(%loop), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(f)/transpose(jvp(tower))/attention/dot_product_attention_fwd"}
}
"""


def test_operations_one_after_the_other():
    """Each takes its products or its bytes, whichever is longer, as often as its loop turns."""
    found = one_by_one(Module(TEXT, 3), 2 * 1024**3 / 5.0, 4 * 1024**2 / 1.0, 7.0, 11.0)
    assert found.parts == pytest.approx(
        {"decoder": 3 * 5.0, "head": 3 * 3.0, "rest": 0.0}, abs=1e-2
    )
    assert found.seconds == pytest.approx(15 + 9 + 7, abs=1e-2) and found.exchanges == 11.0
    assert found.missing == {"start of a kernel": 3 * 3, "sort": 3, "__cudnn$fmhaSoftmax": 1}


def test_a_sort_of_rows():
    """A network of 10 * 11 / 2 passes over 1,024 rows of 1,024 numbers."""
    module = Module(TEXT, 3)
    assert sort_cycles(module, module.lines["c"]) == SORT_CYCLES * 1024 * 55


def test_attention_that_is_none_of_cudnns_is_named():
    (found,) = cuda.without_cudnn(Module(TEXT))
    assert found.startswith("attention of the decoder is no call of cuDNN's")
    both = TEXT.replace("transpose(jvp(tower))", "decoder").replace("jvp(tower)", "decoder")
    (found,) = cuda.without_cudnn(Module(both))
    assert found.startswith("attention of the tower")


@pytest.mark.skipif(
    not any(cuda._found(f"jax_plugins.{name}") for name in cuda.PLUGINS),
    reason="XLA's compiler for CUDA is not installed: jaxvl[plan-gpu]",
)
@pytest.mark.parametrize(("gpu", "count"), [("h100", 8), ("a100", 1)])
def test_an_update_compiled_for_gpus(tmp_path, gpu, count):
    """cuDNN attends in tower and decoder, forward, again and backward; gradients are summed and
    cut in one exchange; decoding's figures are a token's."""
    path = tmp_path / "small.py"
    path.write_text(
        "from pathlib import Path\nfrom tests.plan.small import small_sft\n"
        f"def config():\n    return small_sft(Path({str(write_model(tmp_path / 'model'))!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "jaxvl", "plan", path, "--gpu", gpu, f"--gpus={count}", "--json"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (update,) = found["programs"]
    assert found["exact"] and found["links"] == "NVLink" and found["chips"] == count
    kernels = update["kernels"]
    back = {name: n for name, n in kernels.items() if name.endswith("Backward")}
    assert len(back) == 2 and all(n % 2 == 0 for n in back.values())  # two layers, two blocks
    assert all(kernels[name.removesuffix("Backward")] == 2 * n for name, n in back.items())
    assert not any("cuDNN" in warning for warning in update["warnings"])
    kinds = {one["kind"] for one in update["collectives"]}
    assert kinds >= {"all-gather", "reduce-scatter"} if count > 1 else not kinds
    # Exchanges come on top of a forecast; a bound may be theirs.
    exchanges = update["forecast"]["exchanges"] + update["forecast"]["beside"]
    assert found["forecast_seconds"] + exchanges > found["step_seconds"] > 0


def test_the_compiler_is_looked_for_without_loading_it():
    assert cuda._found("json") and not cuda._found("no_such_package.module")
