# SPDX-License-Identifier: Apache-2.0
"""The whole loop on the checkpoint that comes with the checkout, a few small steps."""

import base64
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxvl
from jaxvl import config
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import Benchmark, Benchmarks, Eval, Reward
from jaxvl.data.scenes import Scenes
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.eval.engines.local import open_model
from jaxvl.observe.browse import Rollouts
from jaxvl.observe.metrics import read_metrics
from jaxvl.rewards import MASKED
from jaxvl.train import grpo
from jaxvl.train.gaps import FLOOR, LEVELS

ROOT = Path(__file__).parents[2]
SMALL = [
    "grpo.prompts=4",
    "grpo.group=4",
    "grpo.beta=0.04",
    "grpo.micro_batches=2",
    "sampling.max_new_tokens=12",
    "data.source.size=40",
    "optim.schedule=linear",
    "run.rollout_images=1",
]
CLOCK = ("time/", "perf/", "step_time", "eval/")  # benchmarks are asked in `whole` alone


def small(run_dir, *more):
    cfg = config.load(ROOT / "configs/quickstart.py", [*SMALL, f"run.dir={run_dir}", *more])
    return dataclasses.replace(cfg, eval=None)


def cached():
    """The environment of a command that shares the tests' compilations."""
    cache = str(jax.config.jax_compilation_cache_dir or "")
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}


def values(run_dir):
    """The metrics that do not tell the time."""
    return [
        {name: value for name, value in line.items() if not name.startswith(CLOCK)}
        for line in read_metrics(run_dir)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six steps without a break."""
    run_dir = tmp_path_factory.mktemp("whole")
    cfg = small(run_dir, "run.steps=6", "run.save_every=4")
    benchmarks = Benchmarks((Benchmark("smoke", limit=4),), every=4, max_new_tokens=12, batch=4)
    cfg = dataclasses.replace(
        cfg,
        eval=Eval(Scenes(4, "test"), samples=2),
        benchmarks=dataclasses.replace(benchmarks, best="completions/mean_length"),
    )
    told = []
    trained = jaxvl.train(cfg, callbacks=[lambda *step: told.append(step)])
    assert [step for step, _, _ in told] == [1, 2, 3, 4, 5, 6]
    for step, metrics, rows in told:
        assert metrics["reward"] == read_metrics(run_dir)[step - 1]["reward"]
        assert [len(row["completions"]) for row in rows] == [4] * 4
        assert {row["step"] for row in rows} == {step}
    return run_dir, trained


def test_a_run_is_interrupted_in_a_session_and_goes_on_there(whole, tmp_path, monkeypatch, capsys):
    """Ctrl-C in a notebook or at the prompt leaves the process alive, and the step is saved. When
    it has ended it is loaded, unless its newest checkpoint is damaged."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)

    def interrupt(step, metrics, rollouts):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    cfg = small(tmp_path, "run.steps=6", "run.save_every=4")
    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        jaxvl.train(cfg, callbacks=[interrupt])
    assert len(read_metrics(tmp_path)) == 2
    jaxvl.train(cfg)
    assert values(tmp_path) == values(whole[0])
    with pytest.raises(UserError, match="expected a jaxvl.SFTConfig"):
        jaxvl.sft(cfg)
    jaxvl.train(cfg)
    assert "finished after 6 steps: nothing to do" in capsys.readouterr().out
    files = (tmp_path / "checkpoints/6/state").rglob("*")
    largest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(UserError, match="checkpoints/6 is damaged.*move it away"):
        jaxvl.train(cfg)
    assert "nothing to do" not in capsys.readouterr().out


def test_what_a_callback_raises_is_told_and_the_step_is_saved(tmp_path):
    def odd(step, metrics, rollouts):
        raise ZeroDivisionError("no")

    cfg = small(tmp_path, "run.steps=2")
    with pytest.raises(UserError, match=r"step 1: the callback .*odd raised ZeroDivisionError"):
        jaxvl.train(cfg, callbacks=[odd])
    assert Checkpoints(tmp_path, keep=1).latest() == 1

    def leaves(step, metrics, rollouts):
        raise SystemExit(3)

    cfg = small(tmp_path / "left", "run.steps=2")
    with pytest.raises((UserError, TrainingFailed), match=r"step 1: .*SystemExit.*3"):
        jaxvl.train(cfg, callbacks=[leaves])
    assert Checkpoints(tmp_path / "left", keep=1).latest() == 1
    for wrong, said in ((odd, "expected a list"), ([3], "found 3"), ("x", "found 'x'")):
        with pytest.raises(UserError, match=said):
            jaxvl.train(cfg, callbacks=wrong)


def test_a_run_leaves_what_the_design_says(whole):
    run_dir, _ = whole
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, 7))
    expected = {"loss", "reward", "reward_std", "rewards/accuracy/mean", "kl", "entropy"}
    expected |= {"completions/mean_length", "completions/clipped_ratio", "frac_reward_zero_std"}
    expected |= {"grad_norm", "learning_rate", "clip_ratio/low_mean", "step_time"}
    expected |= {"audit/accuracy", "audit/format", "audit/repetition", "audit/timeout"}
    expected |= {"updates"}
    expected |= {f"time/{part}" for part in ("data", "generate", "reward", "logprob", "update")}
    assert expected <= set(lines[0])
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy is still its reference
    assert lines[-1]["kl"] > 1e-6
    for name in ("config.json", "report.html", "eval.json", "hf/model.safetensors"):
        assert (run_dir / name).is_file(), name
    assert "before" in json.loads((run_dir / "eval.json").read_text())


def test_benchmarks_are_answered_on_the_way_and_the_best_model_is_kept(whole):
    run_dir = whole[0]
    lines = {line["step"]: line for line in read_metrics(run_dir)}
    answered = [step for step, line in lines.items() if "eval/smoke/accuracy_lenient" in line]
    assert answered == [4, 6]  # every 4 steps, and after the last
    assert {"eval/smoke/accuracy_strict", "eval/smoke/format", "eval/smoke/length"} <= set(lines[4])
    lengths = {step: lines[step]["completions/mean_length"] for step in answered}
    best = json.loads((run_dir / "best/best.json").read_text())
    assert best["value"] == max(lengths.values()) == lengths[best["step"]]
    assert jaxvl.load(run_dir / "best", "float32").config == whole[1].config


def test_an_evaluation_takes_the_directory_of_a_run(whole):
    run_dir, trained = whole
    pixels = {"min_pixels": None, "max_pixels": 6272}
    vlm, weights = open_model(str(run_dir), "float32", trained.mesh, **pixels)
    jax.tree.map(np.testing.assert_array_equal, vlm.params, trained.params)
    assert vlm.processor.image.max_pixels == 6272
    assert weights != open_model(str(run_dir / "hf"), "float32", trained.mesh, **pixels)[1]


def test_sampler_and_learner_agree_on_log_probabilities(whole):
    for line in read_metrics(whole[0]):
        # float32 noise between two orders of summation; three is what masters of 1e6 steps have
        assert line["sampling/sampling_logp_difference/max"] < 1e-4


def test_a_steady_run_compiles_nothing(whole):
    compiles = [line["perf/compiles"] for line in read_metrics(whole[0])]
    # The sampler's start, loop and reading; reference; update: once each.
    assert compiles[0] == 5 and set(compiles) == {5}


def test_rollouts_hold_everything_a_person_wants_to_see(whole):
    run_dir, _ = whole
    lines = (run_dir / "rollouts/step_2.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 4 and len({row["prompt_id"] for row in rows}) == 4
    assert [len(row["image_files"]) for row in rows] == [1, 0, 0, 0]
    assert (run_dir / rows[0]["image_files"][0]).is_file()
    for row in rows:
        rewards = [completion["reward"] for completion in row["completions"]]
        advantages = [completion["advantage"] for completion in row["completions"]]
        assert len(rewards) == 4 and abs(sum(advantages)) < 1e-5
        for completion in row["completions"]:
            assert completion["reward"] == pytest.approx(sum(completion["rewards"].values()))
            assert (completion["finish_reason"] == "length") <= (completion["tokens"] == 12)


def test_gaps_by_token_are_beside_the_rollouts(whole):
    """On a CPU in float32 no gap is larger than the metric's largest, to the eighth it is kept."""
    run_dir, _ = whole
    largest = [line["sampling/sampling_logp_difference/max"] for line in read_metrics(run_dir)]
    rollouts = Rollouts(run_dir)
    for step, files in rollouts.files().items():
        prompts = rollouts.step(files)["prompts"]
        for one in (one for prompt in prompts for one in prompt["completions"]):
            lengths, codes = (np.frombuffer(base64.b64decode(x), np.int8) for x in one["gap"])
            assert len(codes) == len(lengths) == one["tokens"]
            assert lengths.sum() == len(one["text"])
            level = np.abs(codes.astype(int)).max()
            assert level == 0 or FLOOR * 10 ** ((level - 1) / LEVELS) < 1.125 * largest[step - 1]


def test_the_export_is_the_trained_model(whole):
    run_dir, vlm = whole
    again = jaxvl.load(run_dir / "hf", dtype="float32")
    for one, other in zip(jax.tree.leaves(vlm.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_run_goes_on_bit_for_bit(whole, tmp_path):
    """Asked to stop, which saves the step it is in; then killed without warning between two
    checkpoints; then resumed: the same metrics to the bit."""
    args = [*SMALL, f"run.dir={tmp_path}", "run.steps=6", "run.save_every=4", "eval=none"]
    command = [sys.executable, "-m", "jaxvl", "grpo", "configs/quickstart.py", *args]
    log = open(tmp_path.with_suffix(".log"), "w")  # noqa: SIM115 (two processes write it)

    def end(signal_number, step, *more):
        """Begin or go on, and send the signal after a step: the exit code."""
        process = subprocess.Popen(
            [*command, *more], cwd=ROOT, env=cached(), stdout=log, stderr=log
        )
        deadline = time.monotonic() + 300
        while not (tmp_path / "metrics.jsonl").exists() or len(read_metrics(tmp_path)) < step:
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal_number)
        return process.wait()

    assert end(signal.SIGTERM, 1) == 143
    done = len(read_metrics(tmp_path))
    assert Checkpoints(tmp_path, keep=1).latest() == done < 6
    assert "stopping after this step" in Path(log.name).read_text()
    assert end(signal.SIGKILL, 5, "run.resume=true") == -signal.SIGKILL
    log.close()
    done = subprocess.run(
        [*command, "run.resume=true"], cwd=ROOT, env=cached(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert values(tmp_path) == values(whole[0])


LAST = """
import dataclasses, os, signal
from jaxvl.config import Reward, load

def ends(completions, trainer_state, **columns):
    if trainer_state.global_step == 2 and "ENDS" in os.environ:
        os.kill(os.getpid(), signal.SIGTERM)
    return [float(len(text) % 3) for text in completions]

def config():
    return dataclasses.replace(load({!r}, {!r}), rewards=(Reward(ends),))
"""


def test_a_signal_in_the_last_step_ends_the_command_which_then_goes_on_to_its_end(tmp_path):
    """Though nobody reads what it prints: what Ctrl-C ends of `jaxvl .. | tee` is `tee` too."""
    file, run_dir = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(LAST.format(str(ROOT / "configs/quickstart.py"), SMALL))
    more = [f"run.dir={run_dir}", "run.steps=2", "eval.source.size=4", "eval.samples=1"]
    command = [sys.executable, "-m", "jaxvl", "grpo", str(file), *more]
    environment = {**cached(), "ENDS": "1"}
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=writer, stderr=writer)
    os.close(writer)
    assert ended.returncode == 143
    assert Checkpoints(run_dir, keep=1).latest() == 2 and not (run_dir / "hf").exists()
    steps = (run_dir / "metrics.jsonl").read_text()
    assert len(steps.splitlines()) == 2
    done = subprocess.run(command, cwd=ROOT, env=cached(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "hf/model.safetensors").is_file() and (run_dir / "eval.json").is_file()
    assert (run_dir / "metrics.jsonl").read_text() == steps


def test_a_run_is_not_overwritten(whole):
    with pytest.raises(UserError, match="run.resume=auto"):
        grpo.train(small(whole[0], "run.steps=6", "run.resume=never"))


def test_a_masked_completion_is_left_out_and_what_a_reward_logs_is_kept(tmp_path):
    seen = {}

    def judge(prompts, completions, completion_ids, log_metric, log_extra, **columns):
        seen.update(columns)
        log_metric("half", 0.5)
        log_extra("note", ["odd" if row % 2 else "even" for row in range(len(completions))])
        return [MASKED if row % 2 else float(row % 4) for row in range(len(completions))]

    cfg = small(tmp_path, "run.steps=1", "optim.warmup_steps=0")
    grpo.train(dataclasses.replace(cfg, rewards=(Reward(judge),)))
    [line] = read_metrics(tmp_path)
    assert (line["reward"], line["reward_masked"], line["half"]) == (1.0, 0.5, 0.5)
    rows = [
        json.loads(row) for row in (tmp_path / "rollouts/step_1.jsonl").read_text().splitlines()
    ]
    for row in rows:
        found = [(c["reward"], c["extra"]["note"]) for c in row["completions"]]
        assert found == [(0.0, "even"), (None, "odd"), (2.0, "even"), (None, "odd")]
        # (r - mean) / (std + 1e-4) of the two that are left
        spread = 1 / (2**0.5 + 1e-4)
        advantages = [c["advantage"] for c in row["completions"]]
        assert advantages == pytest.approx([-spread, 0, spread, 0], rel=1e-5)
    assert seen["image_sizes"] == seen["processed_sizes"] == [((112, 112),)] * 16


def test_tokens_are_those_of_the_whole_run(whole):
    """As TRL counts them: prompts, once for each completion, and completions, up to now."""
    run_dir, vlm = whole
    total = 0
    for line in read_metrics(run_dir):
        rows = [
            json.loads(r)
            for r in (run_dir / f"rollouts/step_{line['step']}.jsonl").read_text().splitlines()
        ]
        asked = [len(vlm.processor.tokenize(row["prompt"])) for row in rows]
        answered = [sum(c["tokens"] for c in row["completions"]) for row in rows]
        total += 4 * sum(asked) + sum(answered)
        # a picture of 112 x 112 pixels is 16 tokens, of which the prompt's text says one
        pictures = 4 * sum(row["prompt"].count("<|image_pad|>") == 1 for row in rows)
        total += 15 * pictures
        assert line["num_tokens"] == total
        assert line["updates"] == line["step"] and line["skipped_steps"] == 0


def test_the_last_step_is_evaluated_once(tmp_path, capsys):
    cfg = config.load(
        ROOT / "configs/quickstart.py",
        [*SMALL, f"run.dir={tmp_path}", "run.steps=2", "grpo.beta=0", "run.export=false"]
        + ["optim.warmup_steps=0"],
    )
    few = Eval(Scenes(2, "test"), samples=1, every=1)
    grpo.train(dataclasses.replace(cfg, eval=few))
    said = [line for line in capsys.readouterr().out.splitlines() if "held-out" in line]
    assert [line.split("questions ")[1] for line in said] == [
        "before training",
        "after step 1",
        "after step 2",
    ]
    after = json.loads((tmp_path / "eval.json").read_text())["after"]["greedy"]
    after = after["rewards"]["accuracy"]["value"]
    assert after == read_metrics(tmp_path)[-1]["eval_accuracy/greedy"]


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_compiled_before_the_first_step(tmp_path, monkeypatch, ahead):
    """Nothing, or all that steps may need."""
    seen = []
    true = grpo.GRPOLoop.compile
    monkeypatch.setattr(grpo.GRPOLoop, "compile", lambda *args: seen.append(0) or true(*args))
    more = ("run.steps=1", "optim.warmup_steps=0", "run.export=false")
    grpo.train(small(tmp_path, *more, f"run.compile_ahead={str(ahead).lower()}"))
    assert len(seen) == ahead
    assert read_metrics(tmp_path)[0]["perf/compiles"] == 5


def test_the_seed_changes_the_run(whole, tmp_path):
    grpo.train(small(tmp_path, "run.steps=1", "run.seed=1", "optim.warmup_steps=0"))
    assert values(tmp_path)[0]["loss"] != values(whole[0])[0]["loss"]
    assert values(tmp_path)[0]["data/dropped"] == values(whole[0])[0]["data/dropped"] == 0


@pytest.mark.slow  # three runs on two devices
def test_decoding_on_a_mesh_of_its_own(tmp_path):
    """It changes no completion and no update, and compiles nothing later. In eight bits the learner
    sees what the sampler was off by, and a run goes on from its checkpoint bit for bit."""
    common = ("mesh.fsdp=2", "run.steps=2", "run.save_every=1", "run.keep=2", "run.export=false")
    apart = ("sampling.tensor=2", "grpo.importance_sampling_cap=2")
    plain, both, eight = tmp_path / "plain", tmp_path / "both", tmp_path / "eight"
    grpo.train(small(plain, *common, "grpo.importance_sampling_cap=2"))
    grpo.train(small(both, *common, *apart))
    for step, (line, other) in enumerate(zip(values(both), values(plain), strict=True), 1):
        file = f"rollouts/step_{step}.jsonl"
        said = [json.loads(row)["completions"] for row in (both / file).read_text().splitlines()]
        assert said == [
            json.loads(row)["completions"] for row in (plain / file).read_text().splitlines()
        ]
        for name, value in other.items():
            assert line[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    compiles = [line["perf/compiles"] for line in read_metrics(both)]
    assert compiles[0] == compiles[1]
    bits = ("sampling.weights=int8", "sampling.cache=int8")
    grpo.train(small(eight, *common, *apart, *bits))
    first = values(eight)
    gap = "sampling/sampling_logp_difference/mean"
    assert 5 * values(both)[0][gap] < first[0][gap] < 0.1
    assert 0.9 < first[0]["sampling/importance_sampling_ratio/mean"] < 1.1
    grpo.train(small(eight, *common, *apart, *bits, "run.restore_step=1"))
    assert values(eight) == first
