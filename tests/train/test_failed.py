# SPDX-License-Identifier: Apache-2.0
"""Steps that fail: what is kept, what is said, and that a resumed run is as if nothing had been."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxvl.checkpoints.store import Checkpoints
from jaxvl.cli import main
from jaxvl.config import Reward
from jaxvl.config.validate import validate
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.rl import learner
from jaxvl.train import failed, grpo, prompts, rollouts, sft
from jaxvl.train.replay import replay
from tests.train import test_grpo
from tests.train import test_sft as test_sft
from tests.train.test_grpo import ROOT, values

FEW = ("run.steps=4", "run.save_every=3", "sampling.max_new_tokens=4", "grpo.beta=0")
FEW += ("optim.warmup_steps=0", "run.export=false", "grpo.mini_batches=2")


def start(run_dir, fn, *more):
    cfg = test_grpo.small(run_dir, *FEW, *more)
    return grpo.train(dataclasses.replace(cfg, rewards=(Reward(fn, name="odd"),)))


def odd(completion_ids, **columns):
    """Differs within a group."""
    return [float(sum(ids) % 5) for ids in completion_ids]


def failing(step, does):
    """`odd`, which in a step does something else."""

    def fn(completion_ids, trainer_state, **columns):
        found = odd(completion_ids)
        return does(found) if trainer_state.global_step == step else found

    return fn


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, start(run_dir, odd)


def assert_same(vlm, other):
    jax.tree.map(np.testing.assert_array_equal, vlm.params, other.params)


def no_judge(values):
    raise ConnectionError("the judge is down")


def too_few(values):
    return values[1:]


@pytest.mark.parametrize(
    ("step", "does", "message"),
    [
        (3, no_judge, r"step 3: reward `odd` raised ConnectionError: the judge is down .*"),
        (1, too_few, r"step 1: .*15 values.*; nothing had been learnt that could be saved"),
        (4, too_few, r"step 4: reward `odd` returned 15 values for 16 completions"),
    ],
)
def test_a_reward_that_fails_costs_no_step(whole, tmp_path, step, does, message):
    """And the resumed run makes that step again: metrics and model are the same to the bit."""
    with pytest.raises(UserError, match=message) as error:
        start(tmp_path, failing(step, does))
    if step > 1:
        assert f"the state after step {step - 1} is saved" in str(error.value)
    assert (Checkpoints(tmp_path, keep=2).latest() or 0) == step - 1
    assert_same(start(tmp_path, odd, "run.allow=rewards"), whole[1])
    assert values(tmp_path) == values(whole[0])


def test_what_fails_after_an_update_does_not_undo_it(whole, tmp_path, monkeypatch):
    """The old state is gone: the new one is saved, and a resumed run goes on with the next step."""
    true, calls = rollouts.write, []

    def full(*args):
        calls.append(0)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return true(*args)

    monkeypatch.setattr(rollouts, "write", full)
    with pytest.raises(TrainingFailed, match="step 2: OSError: .*No space left.*after step 2 is"):
        start(tmp_path, odd)
    assert "in full" in (tmp_path / "failed/traceback.txt").read_text()
    assert_same(start(tmp_path, odd, "run.allow=rewards"), whole[1])
    assert values(tmp_path)[1:] == values(whole[0])[2:]


def test_what_fails_while_updates_are_made_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """Half of a step is no state to go on from."""
    true, calls = learner.make_update, []

    def make(*args, **more):
        update = true(*args, **more)

        def counted(*args):
            calls.append(0)
            if len(calls) == 8:  # the second of the fourth step
                raise RuntimeError("RESOURCE_EXHAUSTED")
            return update(*args)

        counted._cache_size = update._cache_size
        return counted

    monkeypatch.setattr(learner, "make_update", make)
    with pytest.raises(
        TrainingFailed, match="step 4: RuntimeError: RESOURCE_EXHAUSTED.* step 3 is"
    ):
        start(tmp_path, odd)
    assert Checkpoints(tmp_path, keep=2).latest() == 3


def spoil(monkeypatch, steps):
    """Advantages of a step's first prompt are NaN in `steps`, whatever the rewards are."""
    true, calls = grpo.group_advantages, []

    def group_advantages(*args, **more):
        found = true(*args, **more)
        calls.append(0)
        if len(calls) in steps:
            found[0] = np.nan
        return found

    monkeypatch.setattr(grpo, "group_advantages", group_advantages)


def test_skipped_updates_are_counted_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, {2, 4})
    start(tmp_path, odd, "run.save_every=1")
    lines = read_metrics(tmp_path)
    # One of a step's two updates learns from the prompt.
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, 2]
    assert [line["updates"] for line in lines] == [2, 3, 5, 6]
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in lines)
    assert "warning, step 2: an update was skipped, the first in a row" in capsys.readouterr().out
    saved = Checkpoints.newest_params(tmp_path, lambda shapes: jax.tree.map(lambda x: None, shapes))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run whose updates are skipped from step 3 on, and what it says at its end."""
    run_dir = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, range(3, 9))
        with pytest.raises(TrainingFailed) as error:
            start(run_dir, odd, "run.steps=9", "grpo.mini_batches=1", "run.max_skipped=2")
    return run_dir, str(error.value)


def test_too_many_in_a_row_end_the_run(ended):
    run_dir, message = ended
    assert message.startswith("step 4: an update was skipped, the second in a row (loss nan, ")
    assert "prompts " in message and "rewards " in message and f"jaxvl replay {run_dir}" in message
    # the state before the first of them; a resumed run makes those steps again
    assert message.endswith(
        "the state after step 2 is saved: started again, the run goes on from it"
    )
    assert Checkpoints(run_dir, keep=2).latest() == 2


def test_the_update_can_be_made_again(ended, capsys, monkeypatch):
    run_dir = ended[0]
    found = replay(run_dir)
    assert (found.step, found.update, found.start) == (4, 0, 2)
    assert np.isnan(found.loss) and found.norms.keys() == {"tower", "merger", "text"}
    note = json.loads((run_dir / "failed/update.json").read_text())
    prompt = found.first.removeprefix("input advantages: of prompts ")
    assert prompt in {str(position) for position, *_ in note["prompts"]}
    monkeypatch.setattr("sys.argv", ["jaxvl", "replay", str(run_dir)])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert not stop.value.code and "update 1 of step 4" in capsys.readouterr().out


@dataclasses.dataclass
class Told:
    """One of `count` shares of the rows; what all of them say is `every`."""

    index: int
    count: int
    every: list = dataclasses.field(default_factory=list)
    is_lead: bool = True

    def all_gather_object(self, value):
        return self.every or [value]


def test_every_share_leaves_its_rows(ended, tmp_path):
    whole, note = failed.read(ended[0])
    for i in (1, 0):
        rows = jax.tree.map(lambda x, i=i: np.array_split(x, 2, axis=1)[i], whole)
        failed.leave(tmp_path, Told(i, 2), rows, note)
    found, again = failed.read(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, whole)
    assert again == {**note, "shares": 2}
    assert jax.tree.structure(found) == jax.tree.structure(whole)


def test_prompts_that_matter_are_named_first(ended):
    whole, note = failed.read(ended[0])
    asked = {position: (example, rewards) for position, example, rewards in note["prompts"]}
    _, second, third = sorted(asked)[:3]
    asked[second] = ("b", [0.0, math.inf])
    asked[third] = ("c", [0.0, -1e30])
    found = failed.prompts(whole, asked, Told(0, 1))
    assert [position for position, *_ in found[:2]] == [second, third]
    assert failed.named(found).startswith(
        f"prompts {second} (b: rewards 0, inf), {third} (c: rewards 0, -1e+30), "
    )
    others = [[(100 + i, "x", [1e35])] for i in range(4)]
    found = failed.prompts(whole, asked, Told(0, 5, others))
    assert failed.named(found * 2).endswith("103 (x: rewards 1e+35) and 4 more")


def test_without_a_failed_update_there_is_nothing_to_make_again(whole):
    with pytest.raises(UserError, match="holds no update to make again"):
        replay(whole[0])


def test_a_learning_rate_that_destroys_the_model_ends_the_run(tmp_path):
    with pytest.raises(TrainingFailed, match="step 4: an update was skipped, the third in a row"):
        start(tmp_path, odd, "optim.lr=1e30", "grpo.mini_batches=1")
    found = replay(tmp_path)
    assert found.learning_rate > 1e29 and np.isnan(found.loss) and found.first


@pytest.mark.parametrize("value", [1e39, 1e300, math.nan, math.inf])
@pytest.mark.parametrize("field", ["lr", "clip_norm", "weight_decay", "eps", "grad_norm_warn"])
def test_what_float32_does_not_hold_is_refused(tmp_path, field, value):
    cfg = test_grpo.small(tmp_path)
    with pytest.raises(UserError, match=rf"optim.{field} = .*that float32 holds"):
        validate(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, **{field: value})))


@pytest.mark.parametrize("field", ["eps", "clip_norm"])
@pytest.mark.parametrize("value", ["1e-39", "1e-60", "0"])
def test_what_float32_has_as_zero_is_refused(tmp_path, field, value):
    """By the one is divided, and by the other every gradient multiplied."""
    with pytest.raises(UserError, match=f"optim.{field} = .*at least 1.2e-38"):
        test_grpo.small(tmp_path, f"optim.{field}={value}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    base = ROOT / "configs/quickstart_base"
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    weights[name] = np.array(weights[name])
    weights[name].flat[7] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="model.path .*text/layers/mlp/up/w holds NaN or infinity"):
        start(tmp_path / "run", odd, f"model.path={tmp_path}")
    with pytest.raises(UserError, match="prompt 0: .* no distribution"):
        grpo.load(tmp_path, "float32").generate(["left or right?"], max_new_tokens=2)
    with pytest.raises(UserError, match="saving to .*text/layers/mlp/up/w holds NaN or infinity"):
        grpo.load(tmp_path, "float32").save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fine_tuning_fails_as_well(tmp_path, monkeypatch):
    """A learning rate that destroys, and a target that raises; then it goes on to the bit."""
    with pytest.raises(TrainingFailed, match="step 4: an update was skipped, the third in a row"):
        sft.train(test_sft.small(tmp_path / "lr", "optim.lr=1e30"))
    assert replay(tmp_path / "lr").first
    one, two = tmp_path / "one", tmp_path / "two"
    expected = sft.train(test_sft.small(one, "run.export=false"))
    true = prompts.PromptStream.collate

    def torn(self, items, *more):
        if items[0].position >= 8:
            raise UserError("the disk of pictures is gone")
        return true(self, items, *more)

    monkeypatch.setattr(prompts.PromptStream, "collate", torn)
    with pytest.raises(UserError, match="step 3: the disk .*the state after step 2 is saved"):
        sft.train(test_sft.small(two, "run.export=false", "run.save_every=9"))
    monkeypatch.undo()
    again = sft.train(test_sft.small(two, "run.export=false", "run.resume=true"))
    assert_same(again, expected)
    assert values(one) == values(two)


def test_a_resumed_run_holds_one_state(whole, monkeypatch):
    """It is read into its place, of which shapes are known: none is made to be written over."""

    def none(params, tx):
        assert all(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params))
        return true(params, tx)

    true = learner.init_state
    monkeypatch.setattr(learner, "init_state", none)
    cfg = test_grpo.small(whole[0], *FEW, "run.resume=true")
    again = grpo.train(dataclasses.replace(cfg, rewards=(Reward(odd, name="odd"),)))
    assert_same(again, whole[1])
