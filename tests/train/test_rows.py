# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on whole rows: what counts, several examples in a row, and transformers' own loss."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvl import config
from jaxvl.config import SFT, Benchmarks, Eval, Reward
from jaxvl.data import packing
from jaxvl.data.packing import Room
from jaxvl.data.prompts import Processor
from jaxvl.data.turns import Turn
from jaxvl.distributed.mesh import put_rows
from jaxvl.errors import UserError
from jaxvl.models.io.names import export_tensors
from jaxvl.observe.metrics import read_metrics
from jaxvl.rewards import accuracy
from jaxvl.rl import learner
from jaxvl.train import sft
from jaxvl.train.guard import Guard
from jaxvl.train.prompts import StreamItem, micro
from jaxvl.train.targets import Targets
from tests.tiny import old_name

ROOT = Path(__file__).parents[2]
END = "<|im_end|>"


class Stream:
    """What `row_batch` asks of a stream of prompts."""

    def __init__(self, vlm, T=224, patches=64):
        self.processor, self.room = vlm.processor, (T, patches)
        self.targets = Targets(vlm.processor, SFT(target=str))

    def sizes(self, items, largest=False):
        return self.room


def items_of(vlm, pictures, tail=()):
    """Two with images of different sizes, two of them in one, and one without."""
    asked = [("How many?", [0], "12"), ("Which is left?", [1, 2], "a red circle"), ("Hi", [], "x")]
    found = []
    for position, (question, numbers, answer) in enumerate(asked):
        content = [{"type": "image"}] * len(numbers) + [{"type": "text", "text": question}]
        prompt = [{"role": "user", "content": content}]
        encoded = vlm.processor.encode(prompt, [pictures[i] for i in numbers])
        target = (*vlm.processor.tokenize(answer), Turn.of(vlm.processor).end, *tail)
        found.append(StreamItem(position, None, prompt, encoded, target))
    return found


def test_a_turn_ends_as_the_template_ends_it(vlm):
    turn, tokenize = Turn.of(vlm.processor), vlm.processor.tokenize
    assert [turn.end] == tokenize(END) and list(turn.tail) == tokenize("\n")
    assert turn.header == len(tokenize("<|im_start|>assistant\n"))
    flat = dataclasses.replace(vlm.processor, chat_template=None)
    assert Turn.of(flat) == Turn(0, vlm.processor.stop_ids[0], ())


def test_what_counts(vlm, pictures):
    """VisualThinker's code counts user and system words; neither of the others does."""
    processor, turn = vlm.processor, Turn.of(vlm.processor)
    uncounted = packing.placeholders(processor)
    (item, *_) = items_of(vlm, pictures, turn.tail)

    def counted(loss):
        found = packing.text(item.encoded, item.target, 0, loss, turn.header, uncounted)
        return processor.tokenizer.decode(found.tokens_S[found.counts_S])

    assert counted("answer") == f"12{END}\n"
    assert counted("turn") == f"<|im_start|>assistant\n12{END}\n"
    every = processor.tokenizer.decode([*item.encoded.tokens[1:], *item.target])
    for name in ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"):
        every = every.replace(name, "")
    assert counted("all") == every and "How many?" in every


def test_rows_are_filled_in_order_and_never_beyond_their_room():
    rng = np.random.default_rng(0)
    room = Room(100, 64, 40)
    for _ in range(50):
        sizes = [Room(*rng.integers(1, [101, 65, 41])) for _ in range(rng.integers(1, 20))]
        rows = packing.pack(sizes, room)
        assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
        assert all(
            sum(sizes[i][axis] for i in row) <= room[axis] for row in rows for axis in range(3)
        )
    assert packing.pack([Room(30, 4, 5)] * 6, room) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match="a row holds"):
        packing.pack([Room(101, 4, 5)], room)


def gradient_of(vlm, batch, chunk=64):
    policy = learner.Policy(vlm.graphdef, "float32", "block", 1.0, chunk)
    tx = learner.optimizer(config.Optim(), 1)
    with jax.set_mesh(vlm.mesh):
        state = learner.init_state(vlm.params, tx)
        gradient = jax.jit(learner.make_gradient(learner.sft_objective(policy)))
        grads, stats = gradient(state, put_rows(micro(batch, 1), vlm.mesh, lead=1))
    return jax.device_get(grads), jax.device_get(stats)


def norm(arrays):
    return np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays))


@pytest.mark.parametrize("loss", ["answer", "all"])
def test_packed_is_unpacked_and_both_are_transformers(loss, vlm, pictures, tiny_hf):
    """Loss and gradients, array by array, of three examples: in a row of their own each, in one
    row, and by transformers, a batch padded on the right with the same labels."""
    tail = Turn.of(vlm.processor).tail if loss == "all" else ()
    items, found = items_of(vlm, pictures, tail), {}
    for pack in (False, True):
        cfg = SFT(target=str, rows=3, target_length=32, loss=loss, pack=pack)
        batch, rows = sft.row_batch(Stream(vlm), items, cfg)
        assert len(rows) == (1 if pack else 3) and len(batch.tokens) == 3
        found[pack] = gradient_of(vlm, batch)
    (plain, stats), (packed, packed_stats) = found[False], found[True]
    # float32 sums in another order
    assert packed_stats["loss"] == pytest.approx(stats["loss"], rel=1e-5)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(plain))
    close = {"rtol": 1e-4, "atol": 1e-5 * scale}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), plain, packed)

    expected, own, gradients = by_transformers(vlm, tiny_hf, items, loss)
    assert stats["loss"] == pytest.approx(expected, rel=1e-5) == pytest.approx(own, rel=1e-5)
    assert stats["grad_norm"] == pytest.approx(norm(gradients.values()), rel=1e-5)
    for ours in (plain, packed):
        arrays = dict(export_tensors(ours))
        assert arrays.keys() == gradients.keys()
        for name, gradient in gradients.items():
            apart = norm([arrays[name].reshape(gradient.shape) - gradient])
            assert norm([gradient]) > 0 and apart <= 2e-5 * norm([gradient]), name
            assert apart <= 1e-5 * norm(gradients.values()), name


def by_transformers(vlm, model, items, loss):
    """Loss and gradients (by their names in files) of a batch padded on the right, and the loss
    that the model itself gives for the labels: of `all` those of VisualThinker's public code, which
    takes padding and three tokens of images out and leaves all else in."""
    from tests.torch_reference import hf_gradients, hf_inputs

    rows = [[*item.encoded.tokens, *item.target] for item in items]
    tokens = np.full((len(rows), max(map(len, rows))), vlm.processor.pad_id)
    mask = np.zeros(tokens.shape, int)
    for number, (row, item) in enumerate(zip(rows, items, strict=True)):
        tokens[number, : len(row)], mask[number, : len(row)] = row, 1
        if loss == "answer":
            mask[number, : len(item.encoded.tokens)] = 2
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    placeholders = vlm.processor.tokenizer.convert_tokens_to_ids(names)
    counts = (mask == 1) & ~np.isin(tokens, placeholders)
    patches = np.concatenate([item.encoded.patches_PE for item in items])
    grids = np.array([grid for item in items for grid in item.encoded.grids])
    inputs = hf_inputs(model, tokens, patches, grids, mask > 0)
    labels = inputs["input_ids"].masked_fill(~inputs["input_ids"].new_tensor(counts).bool(), -100)
    own = model(**inputs, labels=labels).loss.item()
    weights = counts / counts[:, 1:].sum()
    value, gradients = hf_gradients(model, tokens, patches, grids, weights, mask > 0)
    return value, own, {old_name(name): gradient for name, gradient in gradients.items()}


@pytest.mark.slow
def test_a_run_that_packs_and_is_evaluated(tmp_path, capsys):
    """One epoch: fewer rows than examples, answers and held-out loss at every step, the best model
    and every checkpoint kept, and an export that ends replies as the template does."""
    words = ["run.steps=0", "run.epochs=1", "sft.rows=4", "optim.warmup_steps=0"]
    words += [
        "data.patch_buckets=256",
        "data.prompt_buckets=160",
        "data.workers=0",
        "sft.pack=true",
    ]
    words += [
        "data.source.size=7",
        "sft.loss=turn",
        "sampling.max_new_tokens=4",
        "run.save_every=1",
    ]
    words += [f"run.dir={tmp_path}", "run.keep=1", "run.keep_every=1"]
    cfg = config.load(ROOT / "configs/quickstart_sft.py", words, config.SFTConfig)
    held_out = Eval(dataclasses.replace(cfg.data.source, split="test", size=2), samples=1, every=1)
    best = Benchmarks((), every=1, best="-eval_loss")
    scored = (Reward(accuracy),)
    sft.train(dataclasses.replace(cfg, eval=held_out, rewards=scored, benchmarks=best))
    assert "2 steps: 1 epochs of 7 examples, 4 a step" in capsys.readouterr().out
    first, last = read_metrics(tmp_path)
    assert 1 <= first["rows"] < 4 and last["loss"] < first["loss"]
    assert {"eval_accuracy/greedy", "eval_loss", "perf/tflops"} <= last.keys()
    # In float32 sampler and learner differ by the order of sums alone, as in GRPO's tests.
    assert 0 < last["eval_sampling_logp_difference/max"] < 1e-4
    found = json.loads((tmp_path / "eval.json").read_text())
    assert found["loss_after"] == last["eval_loss"] < first["eval_loss"] < found["loss_before"]
    assert json.loads((tmp_path / "best/best.json").read_text())["step"] == 2
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}
    processor = Processor.from_pretrained(tmp_path / "hf")
    assert Turn.of(processor).end in processor.stop_ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run.steps=0"], "run.steps = 0: expected a number at least 1, or run.epochs"),
        (["run.keep_every=150"], "no multiple of run.save_every = 100"),
    ],
)
def test_steps_that_cannot_be(words, message):
    with pytest.raises(UserError, match=message):
        config.load(ROOT / "configs/quickstart_sft.py", words, config.SFTConfig)


def test_a_loss_that_jumps_is_told():
    guard = Guard(3, None, 2.0)
    told = [
        guard.see([{"loss": loss, "grad_norm": 1.0, "skipped": False}])
        for loss in (1.0, 1.1, 0.9, 1.9, 2.3)
    ]
    assert [len(events) for events in told] == [0, 0, 0, 0, 1]
    assert "loss 2.3 is 2.19 times its running median 1.05" in told[-1][0].text
    again = Guard(3, None, 2.0)
    again.set_state(guard.get_state())
    assert again.get_state() == guard.get_state()
