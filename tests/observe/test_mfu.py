# SPDX-License-Identifier: Apache-2.0
"""A step's model FLOPs by its seconds."""

import types
from functools import partial

import numpy as np
import pytest
from PIL import Image

from jaxvl.config import GRPO, LoRA, Model, Run
from jaxvl.data.prompts import Processor
from jaxvl.models.io.hf import arch_from_config
from jaxvl.observe import flops
from jaxvl.observe.mfu import Meter, work_of
from tests.tiny import public_config
from tests.train.test_prompts import BASE

V = "<|vision_start|><|image_pad|><|vision_end|>"
ARCH = arch_from_config(public_config("qwen2_vl_2b"))
SECONDS = {"time/total": 4.0, "time/update": 2.0}


@pytest.fixture(scope="module")
def prompts():
    processor = Processor.from_pretrained(BASE)
    pictures = [Image.new("RGB", (w * 28, 56)) for w in (2, 3)]
    return [processor.encode(f"{V}{V}which?", pictures), processor.encode("left or right?", [])]


def meter(kind="NVIDIA H200", count=2, *, devices=None, shares=1, run=None, model=None, **grpo):
    """The metrics of a step, of its prompts, lengths, those learnt from and seconds."""
    model, run = Model("m", **{"dtype": "bfloat16", **(model or {})}), Run("out", 1, **(run or {}))
    device = types.SimpleNamespace(device_kind=kind, process_index=0)
    of = Meter(model, ARCH, devices or [device] * count, shares, run.peak_tflops)
    return partial(of.metrics, GRPO(**grpo))


def test_work_is_what_the_prompts_hold(prompts):
    work = work_of(prompts, np.array([[3, 4], [5, 6]]))
    assert work.pictures == [16, 24] and sum(work.windows) == 40
    assert list(work.prompts) == [len(p.tokens) for p in prompts]


def test_a_step_is_its_passes_by_its_seconds_and_devices(prompts):
    lengths = np.array([3, 4, 5, 6])
    whole = work_of(prompts, lengths.reshape(2, 2))
    learnt = work_of(prompts[:1], lengths.reshape(2, 2)[:1])
    once = flops.forward(ARCH, whole)
    update = flops.update(ARCH, learnt, ("tower", "merger", "text"))
    for how, passes, updates in [
        ({"beta": 0.0}, 1, 1),
        ({"beta": 0.04}, 2, 1),
        ({"beta": 0.0, "num_iterations": 3, "importance_sampling_cap": 2.0}, 2, 3),
    ]:
        found = meter(**how)(prompts, lengths, np.array([0]), SECONDS)
        rate = (passes * once + updates * update) / 4 / 2
        assert found["perf/tflops"] == pytest.approx(rate / 1e12)
        assert found["perf/mfu"] == pytest.approx(rate / 989.4e12)
        assert found["perf/update_mfu"] == pytest.approx(updates * update / 2 / 2 / 989.4e12)


@pytest.mark.parametrize(("devices", "shares"), [(2, 1), (8, 4), (16, 2), (4, 4), (64, 8), (32, 1)])
def test_a_share_is_counted_once_over_all_its_devices(prompts, devices, shares):
    """Of a mesh whose tensor axis spans processes: the work of a share of the rows by the devices
    that do it, those of other processes too."""
    lengths, some = np.array([3, 4, 5, 6]), np.array([0, 1])
    here = types.SimpleNamespace(device_kind="NVIDIA H200", process_index=0)
    other = types.SimpleNamespace(device_kind="NVIDIA H200", process_index=1)
    mesh = [here] + [other] * (devices - 1)
    found = meter(devices=mesh, shares=shares)(prompts, lengths, some, SECONDS)
    alone = meter(count=1)(prompts, lengths, some, SECONDS)
    for name in ("perf/tflops", "perf/mfu", "perf/update_mfu"):
        assert found[name] == pytest.approx(alone[name] / (devices // shares))


def test_the_share_is_told_where_the_peak_is_known(prompts):
    lengths, some = np.array([3, 4, 5, 6]), np.array([0, 1])
    for known, of in [
        (True, meter()),
        (False, meter("cpu")),
        (False, meter(model={"dtype": "float32"})),
        (True, meter("cpu", run={"peak_tflops": 0.2})),
    ]:
        assert ("perf/mfu" in of(prompts, lengths, some, SECONDS)) is known
    own = meter("cpu", run={"peak_tflops": 0.2})(prompts, lengths, some, SECONDS)
    assert own["perf/mfu"] == pytest.approx(own["perf/tflops"] / 0.2)
    adapters = {"train": (), "lora": LoRA()}
    fewer = meter(model=adapters)(prompts, lengths, some, SECONDS)
    assert fewer["perf/update_mfu"] < meter()(prompts, lengths, some, SECONDS)["perf/update_mfu"]
