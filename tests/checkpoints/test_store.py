# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that tests and benches make are what transformers takes them for."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="transformers' model is the reference")

from transformers import AutoModelForImageTextToText, Qwen2VLForConditionalGeneration

from scripts.bench.checkpoint import SHAPES, flat_config, tensor_shapes, write_checkpoint
from tests.tiny import make_checkpoint, make_tokenizer
from tests.torch_reference import hf_logits, hf_model

TOKENS_T = np.arange(12)


@pytest.mark.parametrize("form", [{"layout": "nested"}, {"weights": "old"}, {"sharded": 3}])
def test_every_form_holds_the_same_model(tmp_path, form):
    plain = hf_model(make_checkpoint(tmp_path / "plain"))
    other = hf_model(make_checkpoint(tmp_path / "other", **form))
    expected = hf_logits(plain, TOKENS_T, [], [])
    np.testing.assert_array_equal(hf_logits(other, TOKENS_T, [], []), expected)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("tied", [True, False])
def test_tiny_checkpoint_fills_the_model_exactly(tmp_path, family, tied):
    make_checkpoint(tmp_path, family=family, tied=tied)
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info


def test_bench_checkpoint_fills_the_model_exactly(tmp_path):
    count = write_checkpoint(tmp_path, "1m")
    model, info = Qwen2VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    assert count == model.num_parameters()


def test_2b_shape_has_as_many_parameters_as_qwen2_vl_2b():
    shapes = tensor_shapes(flat_config(make_tokenizer(), **SHAPES["2b"]))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_208_985_600
